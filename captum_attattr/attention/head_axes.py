"""Which of the axes before (query, key) are examples, and which heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from captum_attattr.attention.head_counts import head_count


@dataclass(frozen=True)
class HeadAxes:
    """The axes before (query, key), or (query, dim), of an attention call."""

    batch: tuple[int, ...]
    """Their lengths."""
    order: tuple[int, ...]
    """Their order in which the heads come last."""
    rows: int
    heads: int
    expected: int | None
    """Number of heads that the layer says that it has."""

    @classmethod
    def of(cls, layer: nn.Module, batch: Sequence[int], given: Tensor | None) -> HeadAxes:
        """Find out.

        Args:
            layer: The layer.
            batch: Lengths of the axes.
            given: The first tensor that the layer got, if it is known: (example, token, ...) or (token, example, ...).
        """
        heads, count, places = head_count(layer), prod(batch), tuple(range(len(batch)))
        if len(batch) == 1:
            folded = heads if heads and count % heads == 0 else 1
            if given is not None and given.dim() > 2 and given.shape[0] * folded != count == given.shape[0]:
                folded = 1  # one matrix for each example, though the layer speaks of several heads
            return cls(tuple(batch), places, count // folded, folded, heads)
        last = prod(batch[-2:]) if len(batch) > 2 else 0
        if heads and batch[-1] != heads and last == heads:  # groups of heads that share keys and values
            return cls(tuple(batch), places, count // heads, heads, heads)
        if heads and batch[-1] != heads and heads in batch[1:-1]:
            place = batch.index(heads, 1)
            places = (*places[:place], *places[place + 1 :], place)
        last = batch[places[-1]] if batch else 1
        return cls(tuple(batch), places, count // last if last else 0, last, heads)

    def are_unclear(self, matrix: Tensor) -> bool:
        """Whether the heads may be where the queries should be, as in (batch, query, head, key)."""
        differ = self.expected not in (None, self.heads) and self.expected not in self.batch
        return matrix.dim() > 3 and differ and matrix.shape[-2] == self.expected

    def grouped(self, tensor: Tensor) -> Tensor:
        """Turn (..., query, key) or (..., query, dim) into (row, head, query, key or dim)."""
        tensor = tensor.expand(*self.batch, *tensor.shape[-2:])
        if self._is_plain:
            return tensor
        ends = (len(self.batch), len(self.batch) + 1)
        return tensor.permute(*self.order, *ends).reshape(self.rows, self.heads, *tensor.shape[-2:])

    def apart(self, context: Tensor) -> Tensor:
        """Turn a context (row, query, head, dim) into (..., query, dim).

        It is a copy, since layers add to it in place, and the engine keeps the original.
        """
        context = context.transpose(1, 2)
        if not self._is_plain:
            lengths = [self.batch[place] for place in self.order]
            back = [self.order.index(place) for place in range(len(self.order))]
            ends = (len(lengths), len(lengths) + 1)
            context = context.reshape(*lengths, *context.shape[-2:]).permute(*back, *ends)
        return context.clone(memory_format=torch.contiguous_format)

    @property
    def _is_plain(self) -> bool:
        return self.batch == (self.rows, self.heads) and self.order == (0, 1)
