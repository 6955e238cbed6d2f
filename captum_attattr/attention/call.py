"""A call of a layer's attention, as the engine sees it: its probabilities, values and context, and what handles it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

NEVER = -9e3
"""A pair of query and key with a lower score is forbidden.

Models forbid pairs by -10,000, -1e9, the lowest number or infinity. The exponential of each is zero in every precision,
and scores and position biases are far smaller.
"""


class UnsupportedModelError(ValueError):
    """The model's attention cannot be reached."""


Result = tuple[Tensor, Tensor | None]
"""The context (batch, query, head, dim) and, where the model asks for them, the attention weights."""
Handler = Callable[["AttentionCall"], Result]
Mask = Callable[["AttentionCall"], "AttentionCall"]


class Sizes(NamedTuple):
    """The sizes of a call's attention, where a row may be a part of an example (a window, a choice, an image)."""

    rows: int
    heads: int
    queries: int
    keys: int


@dataclass(frozen=True, kw_only=True)
class AttentionCall(ABC):
    """One call of a layer's attention. A kind of it for each :class:`Backend`.

    Where several rows (windows) belong to one example, results have one entry for each example and the windows as
    further heads: (batch, window * head, ...).
    """

    module: nn.Module
    handlers: tuple[Handler, ...] = ()
    off: Tensor | None = None
    """(head,), True for masked heads, whose attention counts as zero even if a handler replaces it."""
    windows: int = 1
    """Number of rows that belong to one example: its choices, windows or images."""
    same_tokens: bool = False
    """Whether queries and keys are known to be the same tokens."""
    steps: frozenset[int] = frozenset()
    """``id`` of the tensors on the way from the softmax to the product, where these are followed: a module that hands
    one of them on must run again in a replay."""

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """The sizes of the attention, by row."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """The values as the model gave them: of the data type and on the device in which attention is computed."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """The probability with which attention drops out."""

    @property
    @abstractmethod
    def way(self) -> str:
        """The way in which the model computes its attention, and what to try instead, for messages."""

    @abstractmethod
    def narrowed(self, queries: slice) -> Self:
        """Return the call for a range of its queries only."""

    @abstractmethod
    def first_keys(self, count: int) -> Self:
        """Return the call for its first ``count`` keys only, where none of its queries may look at the others."""

    @abstractmethod
    def select(self, examples: Tensor) -> Self:
        """Return the call for some of the examples only."""

    @abstractmethod
    def with_values_of(self, other: Self) -> Self:
        """Return the call with the values of another call of the same layer; a single row of either is repeated."""

    @abstractmethod
    def _computed(self) -> Result:
        """Compute what the model itself computes, by row."""

    @abstractmethod
    def _matrices(self) -> Tensor:
        """Compute the attention probabilities, (row, head, query, key)."""

    @abstractmethod
    def _values(self) -> Tensor:
        """Return the values, (row, head, key, dim)."""

    @abstractmethod
    def _allowed(self) -> Tensor:
        """Return which pairs the mask allows, (row, 1 or head, query, key); with windows for each head."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key) of the attention."""
        rows, heads, queries, keys = self.sizes
        return rows // self.windows, self.windows * heads, queries, keys

    def fold(self, context: Tensor) -> Tensor:
        """Turn a context of the attention function's shape into one with the windows of an example as further heads."""
        return context.unflatten(0, (-1, self.windows)).transpose(1, 2).flatten(2, 3) if self.windows > 1 else context

    def unfold(self, context: Tensor) -> Tensor:
        """Invert :meth:`fold`."""
        if self.windows > 1:
            context = context.unflatten(2, (self.windows, -1)).transpose(1, 2).flatten(0, 1)
        return context.contiguous()  # as attention functions return it

    def _by_example(self, matrix: Tensor) -> Tensor:
        """Turn (row, head, ...) into (batch, window * head, ...)."""
        return matrix.unflatten(0, (-1, self.windows)).flatten(1, 2) if self.windows > 1 else matrix

    def proceed(self) -> Result:
        """Pass the call on; return the context and, if the model's own attention gives them, the attention weights."""
        context, weights = self._pass_on()
        if self.off is not None:
            context = context.masked_fill(self.off[:, None], 0)
            weights = None if weights is None else weights.masked_fill(self.off[:, None, None], 0)
        return self.fold(context), None if weights is None else self._by_example(weights)

    def _pass_on(self) -> Result:
        if self.handlers:
            handler, *rest = self.handlers
            return handler(replace(self, handlers=tuple(rest), windows=1))
        return self._computed()

    def probabilities(self) -> Tensor:
        """Compute the attention probabilities (batch, head, query, key), as the model itself does."""
        matrices = self._matrices()
        return self._by_example(matrices if self.off is None else matrices.masked_fill(self.off[:, None, None], 0))

    def values(self) -> Tensor:
        """Return the values (batch, head, key, dim), repeated for grouped heads."""
        return self._by_example(self._values())

    def grouped_values(self) -> Tensor:
        """Return the values (batch, head or group, key, dim), not repeated for grouped heads."""
        return self.values()

    def pairs(self) -> Tensor:
        """Return which (query, key) pairs count (batch, 1 or head, query, key): those that the mask allows.

        No query may look at a key of padding, so none of its pairs counts. A query counts if it may look at any key.
        This holds in self-attention and in cross-attention, and for every mask. A query at a padded position may
        usually look at real keys, but its context reaches neither other positions nor the output, so that its
        attributions are zero because its gradient is; if an output does read it, they are not zero.
        """
        return self._by_example(self._allowed())

    def pairs_of_tokens(self) -> Tensor:
        """Return the same as :meth:`pairs` without queries at padded positions; for whole calls, not narrowed ones.

        A query is at a padded position if queries and keys are known to be the same tokens, and no query may look at
        the key at its position, in any head.
        """
        allowed = self._allowed()
        if self.same_tokens:
            allowed = allowed & allowed.any((1, 2)).unsqueeze(1).unsqueeze(-1)
        return self._by_example(allowed)


@dataclass(frozen=True, kw_only=True)
class QueryKeyCall(AttentionCall):
    """A call that has queries and keys in place of a matrix.

    Shapes: query (row, head, query, dim), key and value (row, group, key, dim), where grouped heads share a key and
    value.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]
    """Further arguments of the attention function."""

    @property
    def sizes(self) -> Sizes:
        """See :attr:`AttentionCall.sizes`."""
        rows, heads, queries, _ = self.query.shape
        return Sizes(rows, heads, queries, self.key.shape[2])

    @property
    def like(self) -> Tensor:
        """See :attr:`AttentionCall.like`."""
        return self.value

    def grouped_values(self) -> Tensor:
        """See :meth:`AttentionCall.grouped_values`."""
        return self._by_example(self.value)

    def with_values_of(self, other: Self) -> Self:
        """See :meth:`AttentionCall.with_values_of`."""
        rows = max(len(self.query), len(other.value))
        query, key, value = (repeated_row(one, rows) for one in (self.query, self.key, other.value))
        return replace(self, query=query, key=key, value=value)


def repeated_row(tensor: Tensor, rows: int) -> Tensor:
    """Return a tensor with so many rows, of which it may have a single one."""
    return tensor.expand(rows, *tensor.shape[1:]) if len(tensor) == 1 < rows else tensor
