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


def beside_another(batch_size: int) -> Probe:
    """The first example, after the last one with another context."""
    return Probe(torch.tensor([batch_size - 1, 0]), torch.tensor([0.5, 1.0]))


def moved(batch_size: int) -> Probe:
    """Every example once, all in other places than before."""
    return Probe(torch.arange(batch_size).roll(1), torch.ones(batch_size))


def apart(batch_size: int) -> Probe:
    """As :func:`moved`, with other contexts in the first two rows and in the last: at least four rows.

    So one that is to stay as it is stands beside others that do not, whether rows are turned around, shifted or sorted.
    """
    count = max(batch_size + 2, 4)
    scale = torch.ones(count)
    scale[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.7])
    return Probe((torch.arange(count) - 1) % batch_size, scale)
