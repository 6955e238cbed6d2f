"""Choices of rows by which a replay is tried out: those that tell whether rows meet, or change places.

What a forward function does with one row must not depend on what else is in the batch, and row r of what it is given
must be row r of whatever the model computes inside. A batch of one cannot show it, nor can a batch in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """Rows for a replay, some with another context."""

    rows: Tensor
    """(rows,): indices of examples."""
    scale: Tensor
    """(rows,): what the context is multiplied by; where that is 1 the clean output must come out."""

    @property
    def same(self) -> Tensor:
        """(rows,): where the clean output must come out."""
        return self.scale == 1

    def contexts(self, context: Tensor) -> Tensor:
        """The rows' own, from one of each example (batch, query, head, dim)."""
        return context[self.rows.to(context.device)]

    def changed(self, context: Tensor) -> Tensor:
        """The same as the probe wants them."""
        return self.contexts(context) * self.scale.to(context).view(-1, 1, 1, 1)


def alone(batch_size: int) -> Probe:
    """The last example by itself."""
    return Probe(torch.tensor([batch_size - 1]), torch.ones(1))


def moved(batch_size: int) -> Probe:
    """Every example once, all in other places than before."""
    return Probe(torch.arange(batch_size).roll(1), torch.ones(batch_size))


def apart(batch_size: int, most: int | None = None) -> Probe:
    """Every example twice as it is, there and back, between others with other contexts: the first two and the last row.

    Whatever sorts the rows moves one that must stay, since no order by anything runs there and back. Where rows meet,
    at any distance, one that must stay as it is meets one with another context.

    Args:
        batch_size: Number of examples.
        most: Take at most so many of them, spread over the batch.
    """
    count = min(batch_size, most or batch_size)
    examples = torch.linspace(0, batch_size - 1, count).round().long()
    rows = torch.cat([examples[-1:], examples[:1], examples.flip(0), examples, examples[:1]])
    scale = torch.ones(len(rows))
    scale[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.7])
    return Probe(rows, scale)
