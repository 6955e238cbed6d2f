"""Attention calls at torch's level: the product of what a softmax gave with the values, or a call of SDPA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_attattr.attention.call import NEVER, AttentionCall, QueryKeyCall, Result, Sizes, repeated_row


@dataclass(frozen=True, kw_only=True)
class MatrixCall(AttentionCall):
    """A product of attention probabilities with values, by code of a model's own.

    Shapes: weights and scores (row, head, query, key), value (row, head, key, dim).
    """

    weights: Tensor
    """What multiplies the values: the softmax's result after dropout, scalings and casts."""
    value: Tensor
    scores: Tensor
    """What the softmax got, in the shape of the weights."""
    product: Callable[[], Tensor] | None
    """Computes the context (row, query, head, dim) as the model does; None for a part of the call."""
    dropped: float

    @property
    def sizes(self) -> Sizes:
        """See :attr:`AttentionCall.sizes`."""
        return Sizes(*self.weights.shape)

    @property
    def like(self) -> Tensor:
        """See :attr:`AttentionCall.like`."""
        return self.value

    @property
    def dropout(self) -> float:
        """See :attr:`AttentionCall.dropout`."""
        return self.dropped

    @property
    def way(self) -> str:
        """See :attr:`AttentionCall.way`."""
        return "code of its own"

    def narrowed(self, queries: slice) -> MatrixCall:
        """See :meth:`AttentionCall.narrowed`."""
        if len(range(*queries.indices(self.weights.shape[2]))) == self.weights.shape[2]:
            return self
        return replace(self, weights=self.weights[:, :, queries], scores=self.scores[:, :, queries], product=None)

    def first_keys(self, count: int) -> MatrixCall:
        """See :meth:`AttentionCall.first_keys`."""
        weights, scores, value = self.weights[..., :count], self.scores[..., :count], self.value[:, :, :count]
        return replace(self, weights=weights, scores=scores, value=value, product=None)

    def select(self, examples: Tensor) -> MatrixCall:
        """See :meth:`AttentionCall.select`."""
        rows = rows_of(examples, self.windows).to(self.value.device)
        picked = {name: getattr(self, name)[rows] for name in ("weights", "value", "scores")}
        return replace(self, **picked, product=None)

    def with_values_of(self, other: MatrixCall) -> MatrixCall:
        """See :meth:`AttentionCall.with_values_of`."""
        rows = max(len(self.weights), len(other.value))
        weights, scores, value = (repeated_row(one, rows) for one in (self.weights, self.scores, other.value))
        return replace(self, weights=weights, scores=scores, value=value, product=None)

    def _computed(self) -> Result:
        if self.product is not None:
            return self.product(), None
        return (self.weights @ self.value).transpose(1, 2), None

    def _matrices(self) -> Tensor:
        return self.weights

    def _values(self) -> Tensor:
        return self.value

    def _allowed(self) -> Tensor:
        return self.scores > NEVER


@dataclass(frozen=True, kw_only=True)
class FusedCall(QueryKeyCall):
    """A call of ``scaled_dot_product_attention``, whose matrix is made only where it is asked for.

    The mask is as torch takes it.
    """

    causal: bool
    scale: float
    function: Callable[..., Tensor]
    first: int = 0
    """Number of the first query, of a part of the call."""

    @property
    def dropout(self) -> float:
        """See :attr:`AttentionCall.dropout`."""
        return float(self.options.get("dropout_p") or 0.0)

    @property
    def way(self) -> str:
        """See :attr:`AttentionCall.way`."""
        return "scaled_dot_product_attention"

    def narrowed(self, queries: slice) -> FusedCall:
        """See :meth:`AttentionCall.narrowed`."""
        start, stop, _ = queries.indices(self.query.shape[2])
        if stop - start == self.query.shape[2]:
            return self
        has_rows = self.mask is not None and self.mask.shape[-2] > 1
        mask = self.mask[..., start:stop, :] if has_rows else self.mask  # type: ignore[index]
        return replace(self, query=self.query[:, :, start:stop], mask=mask, first=self.first + start)

    def first_keys(self, count: int) -> FusedCall:
        """See :meth:`AttentionCall.first_keys`."""
        mask = self.mask
        if mask is not None and mask.shape[-1] > 1:
            mask = mask[..., :count]
        return replace(self, key=self.key[:, :, :count], value=self.value[:, :, :count], mask=mask)

    def select(self, examples: Tensor) -> FusedCall:
        """See :meth:`AttentionCall.select`."""
        rows, batch = rows_of(examples, self.windows).to(self.value.device), len(self.query)
        picked = {name: getattr(self, name)[rows] for name in ("query", "key", "value")}
        mask = self.mask
        if mask is not None and mask.dim() == 4 and mask.shape[0] == batch > 1:
            mask = mask[rows]
        return replace(self, **picked, mask=mask)

    def _computed(self) -> Result:
        if self.first or self.causal:
            mask, causal = self._mask(), False
        else:
            mask, causal = self.mask, self.causal
        context = self.function(
            self.query, self.key, self.value, attn_mask=mask, is_causal=causal, scale=self.scale, **self.options
        )
        return context.transpose(1, 2), None

    def _matrices(self) -> Tensor:
        dtype = torch.promote_types(self.query.dtype, torch.float32)  # as kernels of half precision do inside
        with torch.autocast(self.query.device.type, enabled=False):
            scores = self.query.to(dtype) @ self._repeated(self.key).to(dtype).transpose(2, 3) * self.scale
        mask = self._mask()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).nan_to_num(0.0)  # a query that may look at no key has no attention

    def _values(self) -> Tensor:
        return self._repeated(self.value)

    def _repeated(self, groups: Tensor) -> Tensor:
        return groups.repeat_interleave(self.query.shape[1] // max(groups.shape[1], 1), dim=1)

    def _allowed(self) -> Tensor:
        rows, heads, queries, keys = self.sizes
        mask = self._mask()
        if mask is None:
            mask = self.query.new_ones((1, 1, 1, 1), dtype=torch.bool)
        allowed = mask if mask.dtype == torch.bool else mask > NEVER
        return allowed.reshape((1,) * (4 - allowed.dim()) + allowed.shape).expand(
            rows, -1 if self.windows == 1 else heads, queries, keys
        )

    def _mask(self) -> Tensor | None:
        if not self.causal:
            return self.mask
        queries = self.first + torch.arange(self.query.shape[2], device=self.query.device)
        return queries[:, None] >= torch.arange(self.key.shape[2], device=self.query.device)


def rows_of(examples: Tensor, windows: int) -> Tensor:
    """Return the rows that belong to the examples, ``windows`` of each."""
    return (examples.unsqueeze(1) * windows + torch.arange(windows, device=examples.device)).flatten()
