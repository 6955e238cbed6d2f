"""Which rows of the sequence the output reads once the last attention is done, and computing no others.

Above the last attention layer of an encoder every token goes its own way: a classifier that reads [CLS] needs the
other rows of the topmost block no more, a language model that predicts the next token only its last one. Nothing is
assumed: rows are left out only if the output stays what it is with NaN in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode
from torch.utils._pytree import tree_map_only

from captum_attattr.undoing import Undo, undoing

T = TypeVar("T")

CANDIDATES = (slice(0, 1), slice(-1, None))
"""Rows that heads of models read: the first, the last."""

# What a module does with a context before it computes anything: shapes are taken from the whole sequence there.
_SHAPING = {
    "__get__", "__getitem__", "size", "dim", "reshape", "view", "contiguous", "transpose", "permute", "flatten",
    "unflatten", "masked_fill",
}  # fmt: skip


class OnlyRows(TorchFunctionMode):
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

    def narrowing(self, function: Callable[[], T]) -> T:
        """Call a function under this mode."""

        def narrowed(undo: list[Undo]) -> T:
            undo.append(self._leave)
            self.__enter__()  # type: ignore[no-untyped-call]
            return function()

        return undoing(narrowed)

    def _leave(self) -> None:
        while self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            _pop_mode()  # type: ignore[no-untyped-call]

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


def with_rows_only(context: Tensor, rows: slice, length: int, fill: float) -> Tensor:
    """A context (B, length, H, D) that has ``context`` in these rows and ``fill`` in all others."""
    start, stop, _ = rows.indices(length)
    return torch.nn.functional.pad(context, (0, 0, 0, 0, start, length - stop), value=fill)
