"""A matrix that a softmax gave, followed through dropout, casts, scalings, masks and changes of shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

SOFTMAX = {"softmax", "_softmax", "_safe_softmax", "special_softmax"}
# Of these the result has the layout of the matrix.
_ELEMENTWISE = {
    "dropout", "dropout_", "to", "type", "type_as", "float", "half", "double", "bfloat16", "mul", "mul_", "__mul__",
    "__rmul__", "__imul__", "multiply", "div", "div_", "__truediv__", "true_divide", "masked_fill", "masked_fill_",
    "where", "nan_to_num", "contiguous", "clone", "detach",
}  # fmt: skip
# These change the layout alone: what they do to the matrix they do to the scores beside it.
_TURNS = {"permute", "transpose", "swapaxes", "movedim", "t"}
_SHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "narrow", "__getitem__"}
_PROPERTIES: list[Any] = [getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH")]


@dataclass(frozen=True)
class Followed:
    """A matrix that a softmax gave, or what became of it."""

    matrix: Tensor
    scores: Tensor
    """What the softmax got, in the layout of the matrix."""
    root: int
    """Number of the softmax, of those that were called."""
    keys: int
    """The axis of the keys, over which the softmax was taken."""
    dropped: float = 0.0

    @property
    def rows(self) -> int:
        """How many queries it has, of all heads and examples. It may lose columns, such as that of a sink."""
        return self.matrix.numel() // max(self.matrix.shape[self.keys], 1)

    def turned(self, turn: Callable[[Tensor], Tensor]) -> Followed:
        """Return it with its axes in another order."""
        sizes = torch.empty(tuple(range(2, 2 + self.matrix.dim())), device="meta")  # each axis has a size of its own
        with torch.no_grad():
            scores, keys = turn(self.scores), tuple(turn(sizes).shape).index(2 + self.keys)
        return replace(self, matrix=turn(self.matrix), scores=scores, keys=keys)

    def after(self, func: Any, result: Tensor, args: Sequence[Any], options: Mapping[str, Any]) -> Followed | None:
        """Return what a function of torch made of it; None if that is no such matrix any more."""
        name = getattr(func, "__name__", "")
        if name in _ELEMENTWISE and result.shape == self.matrix.shape:
            dropped = _dropout_of(args, options) if name.startswith("dropout") else 0.0
            return replace(self, matrix=result, dropped=max(self.dropped, dropped))
        if name == "__setitem__" or not args or args[0] is not self.matrix:
            return None
        if name in _TURNS or func in _PROPERTIES:
            turned = self.turned(lambda tensor: func(tensor, *args[1:], **options))
            return replace(turned, matrix=result)
        if name in _SHAPES and self._ends_in_keys(result, name in {"narrow", "__getitem__"}):
            with torch.no_grad():
                scores = func(self.scores, *args[1:], **options)
            if scores.shape == result.shape:
                return replace(self, matrix=result, scores=scores, keys=result.dim() - 1)
        return None

    def _ends_in_keys(self, result: Tensor, may_lose_columns: bool) -> bool:
        """Whether the last axis is that of the keys, before a change of shape and after it."""
        if self.keys != self.matrix.dim() - 1 or result.dim() < 2:
            return False
        loses_columns = may_lose_columns and result.shape[:-1] == self.matrix.shape[:-1]
        return loses_columns or result.shape[-1] == self.matrix.shape[-1]


def is_elementwise(func: Any) -> bool:
    """Whether a function, if it changes a matrix in place, leaves its layout."""
    return getattr(func, "__name__", "") in {*_ELEMENTWISE, "__setitem__"}


def softmax_axis(result: Tensor, args: Sequence[Any], options: Mapping[str, Any]) -> int | None:
    """Return the axis of a softmax."""
    dim = args[1] if len(args) > 1 else options.get("dim")
    return dim % result.dim() if type(dim) is int and result.dim() > 1 else None


def _dropout_of(args: Sequence[Any], options: Mapping[str, Any]) -> float:
    """The probability of F.dropout(input, p, training) or torch.dropout(input, p, train)."""
    probability = args[1] if len(args) > 1 else options.get("p", 0.5)
    training = args[2] if len(args) > 2 else options.get("training", options.get("train", True))
    return float(probability) if training else 0.0
