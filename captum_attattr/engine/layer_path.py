"""The attention path of one layer: the straight line from a baseline to the attention that the model used.

A layer uses its attention A only through the context C = A V, which is linear in A. So the points of the path are
contexts, tensors of the size of the hidden state, and matrices are made for a range of queries at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
            keys = state.keys(block)
            change = path.change(block, keys)
            with full_precision(change):
                path.context_change[:, block] = (change @ state.values[:, :, :keys].to(dtype)).transpose(1, 2)
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

    def change(self, queries: slice = ALL, keys: int | None = None) -> Tensor:
        """Compute A - A0 (B, H, queries, first keys), zero on pairs that do not count."""
        attention = self.state.probabilities(queries, keys).to(self.context_change.dtype)
        if self.start is not None:
            attention = attention - self.start(queries)[..., :keys].to(attention)
        elif bool(self.state.attends[:, queries].all()):
            return attention  # the softmax is exactly 0 for forbidden pairs if the query has any allowed one
        return attention.masked_fill(~self.state.pairs(queries, keys), 0)

    def context(self, alphas: Tensor, examples: Tensor) -> Tensor:
        """Compute C(alpha) of each example (R,) at its alpha (R,): (R, Q, H, D), in the model's dtype."""
        change, end = self.context_change[examples], self.state.context[examples]
        weights = alphas.to(change).view(-1, 1, 1, 1)
        # lerp is exact at both ends and as precise near alpha = 0 as elsewhere.
        return torch.lerp(end - change, end.to(change), weights).to(end.dtype)


def full_precision(like: Tensor) -> torch.autocast:
    """Switch the user's autocast off: it is meant for the model, not for sums over the path."""
    return torch.autocast(like.device.type, enabled=False)
