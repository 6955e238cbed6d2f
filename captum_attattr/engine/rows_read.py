"""The rows of the sequence that the output reads after the last attention call, and replays that compute only these.

After the last attention layer of an encoder tokens no longer affect each other: a classifier that reads [CLS] does not
need the other rows of the top block, and a language model that predicts the next token needs only the last row. This is
tested, not assumed: rows are left out only if the output stays the same with NaN in their place. The NaN is carried
along in separate tensors, so that the model's modules and the forward function see only the model's own numbers. What
it saves is in ``benchmarks/results/rows_left_out.md``: a quarter at 512 tokens, little for short texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from captum_attattr.attention.modes import Mode
from captum_attattr.engine.memory import is_out_of_memory

CANDIDATES = (slice(0, 1), slice(-1, None))
"""Rows that models' heads may read: the first or the last."""

# Operations that bring a context into shape before anything is computed: they need the shape of the whole sequence.
_SHAPING = {
    "__get__", "__getitem__", "size", "dim", "reshape", "view", "contiguous", "transpose", "permute", "flatten",
    "unflatten", "masked_fill",
}  # fmt: skip


# Operations that choose by the values of numbers, or pass over NaN.
_CHOOSING = {
    torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__, torch.Tensor.item,
    torch.Tensor.tolist, torch.Tensor.numpy, torch.nan_to_num, torch.Tensor.nan_to_num, torch.nansum,
    torch.Tensor.nansum, torch.nanmean, torch.Tensor.nanmean, torch.fmax, torch.Tensor.fmax, torch.fmin,
    torch.Tensor.fmin,
}  # fmt: skip


class OnlyRows(Mode):
    """Narrows sequences to the rows that are read, after :meth:`begin` and after the context was brought into shape.

    Args:
        rows: The rows that are read.
        length: Number of rows of the whole sequence.
    """

    def __init__(self, rows: slice, length: int) -> None:
        super().__init__()
        self.rows, self._length = rows, length
        self._computing = False

    def begin(self) -> None:
        """Begin to narrow sequences: the last attention call has ended. Until then the mode would only cost time."""
        super()._enter()

    def _enter(self) -> None:
        """Wait for :meth:`begin`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, on narrowed sequences once narrowing has begun."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        _refuse_out_of_range(name, args)
        shaping = name in _SHAPING
        self._computing = self._computing or not shaping
        if self._computing and not shaping:
            args, kwargs = tree_map_only(Tensor, self._narrowed, (args, kwargs))
        return func(*args, **kwargs)

    def _narrowed(self, value: Tensor) -> Tensor:
        return value[:, self.rows] if value.dim() >= 3 and value.shape[1] == self._length else value


def _refuse_out_of_range(name: str, args: Sequence[Any]) -> None:
    """Raise an IndexError where a model picks a row that was left out: a GPU would read outside and end the process."""
    picked: Sequence[tuple[int, Any]] = ()
    if name == "__getitem__":
        places = args[1] if isinstance(args[1], tuple) else args[1:]
        simple = all(isinstance(one, (int, slice)) or _is_place(one) for one in places)
        picked = list(enumerate(places)) if simple else ()
    elif name in ("gather", "index_select", "take_along_dim") and len(args) == 3:
        picked = [(dim, index) for dim, index in (args[1:], args[:0:-1]) if isinstance(dim, int)]
    for dim, index in picked:
        if _is_place(index) and index.numel() and int(index.max()) >= args[0].shape[dim]:
            raise IndexError(f"there is no row {int(index.max())} among {args[0].shape[dim]}")


def _is_place(index: Any) -> bool:
    return isinstance(index, Tensor) and not index.is_floating_point() and index.dtype != torch.bool


class Shadows(Mode):
    """Computes every result that depends on a tensor a second time, with other values (the shadow) in its place.

    Shadows are returned by :meth:`look_up` only: the model's modules and the forward function never see them.

    Args:
        tensor: The tensor to follow.
        shadow: The other values.
    """

    def __init__(self, tensor: Tensor, shadow: Tensor) -> None:
        super().__init__()
        self._shadows: Any = WeakTensorKeyDictionary()
        self._shadows[tensor] = shadow
        self.lost = False
        """Whether an operation could not be followed, so that shadows mean nothing."""

    def look_up(self, tensor: Tensor) -> Tensor | None:
        """Return a result's shadow; None if it does not depend on the tensor or could not be followed.

        It cannot be followed where a value that depends on the tensor decides what is computed (a condition, an index,
        the branch of an ``if``): at another point of a path the decision may differ.
        """
        return None if self.lost else self._shadows.get(tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, and again with the shadows of its arguments if they have any."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        own = [tensor for tensor in tensors if tensor not in self._shadows]
        if self.lost or len(own) == len(tensors):
            return func(*args, **kwargs)
        versions = [_version(tensor) for tensor in own]
        # Before the function runs, which may write into its arguments.
        chosen = func in _CHOOSING or any(_is_choice(tensor) for tensor in tensors if tensor in self._shadows)
        result = func(*args, **kwargs)
        if chosen or versions != [_version(tensor) for tensor in own]:
            self.lost = True  # or the function wrote into a tensor without a shadow
        else:
            self._follow(result, func, *tree_map_only(Tensor, self._shadow_of, (args, kwargs)))
        return result

    def _shadow_of(self, tensor: Tensor) -> Tensor:
        if tensor in self._shadows:
            shadow: Tensor = self._shadows[tensor]
            return shadow
        # A copy, as batch normalisation writes into running statistics without raising their version.
        return tensor if isinstance(tensor, torch.nn.Parameter) else tensor.clone()

    def _follow(self, result: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            shadow = func(*args, **kwargs)
        except Exception as error:  # some functions of torch refuse NaN
            if is_out_of_memory(error):
                raise
            self.lost = True
            return
        for one, other in zip(tree_leaves(result), tree_leaves(shadow), strict=True):
            if isinstance(one, Tensor):
                self._shadows[one] = other


def _is_choice(tensor: Tensor) -> bool:
    """Whether a tensor holds conditions or indices, which may differ at another point of a path."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def with_rows_only(context: Tensor, rows: slice, length: int, fill: float) -> Tensor:
    """Return a context (B, length, H, D) with ``context`` in these rows and ``fill`` in all others."""
    start, stop, _ = rows.indices(length)
    return torch.nn.functional.pad(context, (0, 0, 0, 0, start, length - stop), value=fill)
