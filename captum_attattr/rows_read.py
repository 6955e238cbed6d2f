"""Which rows of the sequence the output reads once the last attention is done, and computing no others.

Above the last attention layer of an encoder every token goes its own way: a classifier that reads [CLS] needs the
other rows of the topmost block no more, a language model that predicts the next token only its last one. Nothing is
assumed: rows are left out only if the output stays what it is with NaN in their place. That NaN is computed with beside
the model's own numbers, which are all that its modules and the forward function ever see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from captum_attattr.memory import is_out_of_memory
from captum_attattr.undoing import Undo, undoing

T = TypeVar("T")

CANDIDATES = (slice(0, 1), slice(-1, None))
"""Rows that heads of models read: the first, the last."""

# What a module does with a context before it computes anything: shapes are taken from the whole sequence there.
_SHAPING = {
    "__get__", "__getitem__", "size", "dim", "reshape", "view", "contiguous", "transpose", "permute", "flatten",
    "unflatten", "masked_fill",
}  # fmt: skip


# What looks at numbers to decide which others count, or passes over NaN.
_CHOOSING = {
    torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__, torch.Tensor.item,
    torch.Tensor.tolist, torch.Tensor.numpy, torch.nan_to_num, torch.Tensor.nan_to_num, torch.nansum,
    torch.Tensor.nansum, torch.nanmean, torch.Tensor.nanmean, torch.fmax, torch.Tensor.fmax, torch.fmin,
    torch.Tensor.fmin,
}  # fmt: skip


class _Mode(TorchFunctionMode):
    def during(self, function: Callable[[], T]) -> T:
        """Call a function under this mode."""

        def under_it(undo: list[Undo]) -> T:
            undo.append(self._leave)
            self.__enter__()  # type: ignore[no-untyped-call]
            return function()

        return undoing(under_it)

    def _leave(self) -> None:
        while self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            _pop_mode()  # type: ignore[no-untyped-call]


class OnlyRows(_Mode):
    """From :meth:`begin` on, and after the context was brought into shape, sequences are narrowed to some rows.

    Args:
        rows: The rows that are read.
        length: Number of rows of the whole sequence.
    """

    def __init__(self, rows: slice, length: int) -> None:
        super().__init__()
        self.rows, self._length = rows, length
        self._begun = self._computing = False

    def begin(self) -> None:
        """The last attention call is done."""
        self._begun = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, on narrowed sequences where that is due."""
        kwargs = kwargs or {}
        shaping = getattr(func, "__name__", "") in _SHAPING
        self._computing = self._computing or (self._begun and not shaping)
        if self._computing and not shaping:
            args, kwargs = tree_map_only(Tensor, self._narrowed, (args, kwargs))
        return func(*args, **kwargs)

    def _narrowed(self, value: Tensor) -> Tensor:
        return value[:, self.rows] if value.dim() >= 3 and value.shape[1] == self._length else value


class Shadows(_Mode):
    """What would be computed with other values in place of a tensor, beside what is computed with its own.

    Whatever torch computes inside the block from the tensor is computed once more from its shadow. Nobody but
    :meth:`of` gets to see a shadow: not the model's modules, not the forward function, not what they keep.

    Args:
        tensor: Where it begins.
        shadow: The other values.
    """

    def __init__(self, tensor: Tensor, shadow: Tensor) -> None:
        super().__init__()
        self._shadows: Any = WeakTensorKeyDictionary()
        self._shadows[tensor] = shadow
        self.lost = False
        """Whether something could not be followed: shadows tell nothing then."""

    def of(self, tensor: Tensor) -> Tensor | None:
        """The shadow; None if the tensor does not depend on where it began, or that could not be followed.

        It cannot where what depends on the beginning decides what is computed (a condition, an index, the branch of an
        ``if``): at another point of a path that decision may be another.
        """
        return None if self.lost else self._shadows.get(tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, and once more on shadows where there are some."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        own = [tensor for tensor in tensors if tensor not in self._shadows]
        if self.lost or len(own) == len(tensors):
            return func(*args, **kwargs)
        versions = [_version(tensor) for tensor in own]
        # Before it runs: it may write into them.
        chosen = func in _CHOOSING or any(_is_choice(tensor) for tensor in tensors if tensor in self._shadows)
        result = func(*args, **kwargs)
        if chosen or versions != [_version(tensor) for tensor in own]:
            self.lost = True  # or written into a tensor without a shadow, such as a running mean
        else:
            self._follow(result, func, *tree_map_only(Tensor, self._shadow_of, (args, kwargs)))
        return result

    def _shadow_of(self, tensor: Tensor) -> Tensor:
        if tensor in self._shadows:
            return self._shadows[tensor]
        # Batch normalisation writes into running statistics without any trace.
        return tensor if isinstance(tensor, torch.nn.Parameter) else tensor.clone()

    def _follow(self, result: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            shadow = func(*args, **kwargs)
        except Exception as error:  # a function of torch may well refuse NaN
            if is_out_of_memory(error):
                raise
            self.lost = True
            return
        for one, other in zip(tree_leaves(result), tree_leaves(shadow), strict=True):
            if isinstance(one, Tensor):
                self._shadows[one] = other


def _is_choice(tensor: Tensor) -> bool:
    """Whether these are conditions or whole numbers: elsewhere on the path they may choose something else."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def with_rows_only(context: Tensor, rows: slice, length: int, fill: float) -> Tensor:
    """A context (B, length, H, D) that has ``context`` in these rows and ``fill`` in all others."""
    start, stop, _ = rows.indices(length)
    return torch.nn.functional.pad(context, (0, 0, 0, 0, start, length - stop), value=fill)
