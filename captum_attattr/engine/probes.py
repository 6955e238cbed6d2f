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
    return Probe(torch.tensor([batch_size - 1]), torch.ones(1))


def beside_another(batch_size: int) -> Probe:
    """Make a probe of the first example, after the last one with a scaled context."""
    return Probe(torch.tensor([batch_size - 1, 0]), torch.tensor([0.5, 1.0]))


def moved(batch_size: int) -> Probe:
    """Make a probe of every example once, shifted by one row."""
    return Probe(torch.arange(batch_size).roll(1), torch.ones(batch_size))


def apart(batch_size: int) -> Probe:
    """Make a probe as :func:`moved`, of at least four rows, with scaled contexts in the first two and the last.

    Whether a function reverses, shifts or sorts its rows, an unchanged row then comes next to a changed one.
    """
    count = max(batch_size + 2, 4)
    scale = torch.ones(count)
    scale[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.7])
    return Probe((torch.arange(count) - 1) % batch_size, scale)
