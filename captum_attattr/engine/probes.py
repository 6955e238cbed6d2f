"""Choices of rows for the test of a replay, which show whether rows affect each other or change their order.

A forward function must treat each row independently of the rest of the batch, and row r of its input must be row r of
every tensor inside the model. A batch of one row cannot show this, nor can a batch in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """Rows for a replay, some with a scaled context."""

    rows: Tensor
    """(rows,): indices of examples."""
    scale: Tensor
    """(rows,): factor of the context; where it is 1 the replay must give the clean output."""

    @property
    def same(self) -> Tensor:
        """Where the replay must give the clean output, (rows,)."""
        return self.scale == 1

    def contexts(self, context: Tensor) -> Tensor:
        """Return the context of each row, from that of each example (batch, query, head, dim)."""
        return context[self.rows.to(context.device)]

    def changed(self, context: Tensor) -> Tensor:
        """Return the scaled context of each row."""
        return self.contexts(context) * self.scale.to(context).view(-1, 1, 1, 1)


def alone(batch_size: int) -> Probe:
    """Make a probe of the last example alone."""
    return Probe(torch.tensor([batch_size - 1], device="cpu"), torch.ones(1, device="cpu"))


def moved(batch_size: int) -> Probe:
    """Make a probe of every example once, shifted by one row."""
    return Probe(torch.arange(batch_size, device="cpu").roll(1), torch.ones(batch_size, device="cpu"))


def apart(batch_size: int, most: int | None = None) -> Probe:
    """Make a probe of every example twice, in the order of the batch and in reverse, with changed rows around them.

    Sorting moves a row that must stay in place, since no order runs there and back. Where rows affect each other, at
    any distance, an unchanged row meets a changed one: the first two or the last.

    Args:
        batch_size: Number of examples.
        most: Use at most so many of them, spread over the batch.
    """
    count = min(batch_size, most or batch_size)
    examples = torch.linspace(0, batch_size - 1, count, device="cpu").round().long()
    rows = torch.cat([examples[-1:], examples[:1], examples.flip(0), examples, examples[:1]])
    scale = torch.ones(len(rows), device="cpu")
    scale[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.7], device="cpu")
    return Probe(rows, scale)
