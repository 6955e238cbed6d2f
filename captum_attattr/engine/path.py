"""The attention path of one layer: the straight line from a baseline to the attention that the model used.

A layer uses its attention A only through the context C = A V, which is linear in A. So the points of the path are
contexts, tensors of the size of the hidden state, and matrices are made for a range of queries at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.baselines import Start
from captum_attattr.engine.layer_state import ALL, LayerState


@dataclass(frozen=True)
class LayerPath:
    """The path A(alpha) = A0 + alpha (A - A0) of one layer's attention, and of its context C(alpha) = A(alpha) V.

    Queries that may look at no key keep the model's attention, A0 = A: they do not count.
    """

    state: LayerState
    start: Start | None
    """A0; None where it is zero everywhere."""
    context_change: Tensor
    """(A - A0) V (B, Q, H, D)."""

    @classmethod
    def from_state(cls, state: LayerState, start: Start | None) -> LayerPath:
        """Make the path from ``start`` (None: no attention) to the layer's attention in the clean pass."""
        dtype = torch.promote_types(state.context.dtype, torch.float32)
        if start is None:
            # The context itself, not A V, since the model's probabilities may be less precise.
            return cls(state, None, state.context.to(dtype).masked_fill(~state.attends, 0))
        path = cls(state, start, torch.zeros_like(state.context, dtype=dtype))
        for block in state.blocks():
            change = path.change(block)
            with full_precision(change):
                path.context_change[:, block] = (change @ state.values.to(dtype)).transpose(1, 2)
        return path

    def select(self, examples: Tensor) -> LayerPath:
        """Return the path of some of the examples, with repetition."""
        if examples.tolist() == list(range(self.state.shape[0])):
            return self
        start, batch = self.start, self.state.shape[0]

        def picked(queries: slice) -> Tensor:
            matrix = start(queries)  # type: ignore[misc]  # only called where start is not None
            return matrix[examples] if matrix.dim() == 4 and matrix.shape[0] == batch > 1 else matrix

        return LayerPath(self.state.select(examples), start and picked, self.context_change[examples])

    def change(self, queries: slice = ALL) -> Tensor:
        """Compute A - A0 (B, H, queries, K), zero on pairs that do not count."""
        attention = self.state.probabilities(queries).to(self.context_change.dtype)
        if self.start is not None:
            attention = attention - self.start(queries).to(attention)
        return attention.masked_fill(~self.state.pairs(queries), 0)

    def context(self, alphas: Tensor, examples: Tensor) -> Tensor:
        """Compute C(alpha) of each example (R,) at its alpha (R,): (R, Q, H, D), in the model's dtype."""
        change, end = self.context_change[examples], self.state.context[examples]
        weights = alphas.to(change).view(-1, 1, 1, 1)
        # lerp is exact at both ends and as precise near alpha = 0 as elsewhere.
        return torch.lerp(end - change, end.to(change), weights).to(end.dtype)


class FrozenMatrices:
    """A0 and A - A0 of one layer, kept for the joint path, on which the values change at every step.

    Args:
        path: The layer's path.
    """

    def __init__(self, path: LayerPath) -> None:
        self.path = path
        self.change = path.change()
        attention = path.state.probabilities().to(self.change)
        self._start = None if path.start is None and bool(path.state.attends.all()) else attention - self.change

    def context(self, call: AttentionCall, alphas: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A(alpha) V, with the values of a replay whose lower layers are scaled as well, and (A - A0) V.

        Both are (R, Q, H, D), for examples (R,) at alphas (R,).
        """
        values = values_met(call, len(examples))
        slope = _applied(self.change, values, examples)
        context = alphas.to(values).view(-1, 1, 1, 1) * slope
        if self._start is not None:
            context = context + _applied(self._start, values, examples)
        return context, slope.detach()


def values_met(call: AttentionCall, rows: int) -> Tensor:
    """Values (R, H, K, D) of a call, also where its one row of keys and values serves all queries."""
    values = call.values()
    return values.expand(rows, *values.shape[1:]) if len(values) == 1 else values


def _applied(matrices: Tensor, values: Tensor, examples: Tensor) -> Tensor:
    """Multiply each example's matrix (H, Q, K) by the values (R, H, K, D) of its rows: (R, Q, H, D)."""
    count = len(matrices)
    steps = len(examples) // count
    if len(examples) % count == 0 and torch.equal(examples, torch.arange(count).repeat(steps)):
        # All steps of an example side by side in one product, so that its matrix is not repeated.
        columns = values.unflatten(0, (steps, count)).permute(1, 2, 3, 0, 4).flatten(3)
        product = matrices.to(columns.dtype) @ columns
        return product.unflatten(-1, (steps, -1)).permute(3, 0, 2, 1, 4).flatten(0, 1)
    groups = [(examples == example).nonzero().flatten() for example in examples.unique()]
    products = []
    for rows in groups:
        # As above, where examples have different steps.
        columns = values[rows.to(values.device)].permute(1, 2, 0, 3).flatten(2)
        product = matrices[examples[rows[0]]].to(columns.dtype) @ columns
        products.append(product.unflatten(-1, (len(rows), -1)).permute(2, 1, 0, 3))
    return torch.cat(products)[torch.cat(groups).argsort().to(values.device)]


def full_precision(like: Tensor) -> torch.autocast:
    """Switch the user's autocast off: it is meant for the model, not for sums over the path."""
    return torch.autocast(like.device.type, enabled=False)
