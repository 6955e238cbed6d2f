"""One call of an attention function: what it was given, what it makes of it, and the same for some of its queries."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


class UnsupportedModelError(ValueError):
    """The model's attention cannot be reached through transformers' attention interface."""


Result = tuple[Tensor, Tensor | None]
Handler = Callable[["AttentionCall"], Result]
Mask = Callable[["AttentionCall"], "AttentionCall"]


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention function: what it was given, and what it makes of it.

    Shapes: query (batch, head, query, dim), key and value (batch, group, key, dim), where grouped heads
    share a key and value; the context is (batch, query, head, dim).
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]
    implementation: str
    function: Callable[..., Result]
    """What the model would have called by itself."""
    handlers: tuple[Handler, ...] = ()
    off: Tensor | None = None
    """(head,), True where a head's attention counts as zero, whatever is computed or put in its place."""
    narrowed_from: int | None = None
    """Number of queries before the call was narrowed to some of them."""
    first_query: int = 0
    """Place among those of the first that was kept."""

    def narrowed(self, queries: slice) -> AttentionCall:
        """The same call for a range of its queries only: their rows of the attention, and of the context."""
        start, stop, _ = queries.indices(self.query.shape[2])
        if stop - start == self.query.shape[2]:
            return self
        if self.mask is None and self._is_causal_without_mask():
            places = torch.arange(self.key.shape[2], device=self.query.device)
            mask: Tensor | None = (places[start:stop, None] >= places)[None, None]
        else:
            mask = _rows_of(self.mask, start, stop, self.query.shape[2])
        options = {name: _rows_of(value, start, stop, self.query.shape[2]) for name, value in self.options.items()}
        query = self.query[:, :, start:stop]
        return replace(self, query=query, mask=mask, options=options, narrowed_from=self.queries, first_query=start)

    def of(self, examples: Tensor) -> AttentionCall:
        """The same call for some of the examples only."""
        batch = len(self.query)

        def picked(value: Any) -> Any:
            has_batch = isinstance(value, Tensor) and value.dim() > 2 and value.shape[0] == batch > 1
            return value[examples.to(value.device)] if has_batch else value

        tensors = {name: picked(getattr(self, name)) for name in ("query", "key", "value", "mask")}
        return replace(self, **tensors, options={name: picked(value) for name, value in self.options.items()})

    @property
    def queries(self) -> int:
        """Number of queries of the whole call."""
        return self.query.shape[2] if self.narrowed_from is None else self.narrowed_from

    def proceed(self) -> Result:
        """Pass the call on: context, and attention weights where the implementation gives them."""
        context, weights = self._pass_on()
        if self.off is None:
            return context, weights
        context = context.masked_fill(self.off[:, None], 0)
        return context, None if weights is None else weights.masked_fill(self.off[:, None, None], 0)

    def _pass_on(self) -> Result:
        if self.handlers:
            handler, *rest = self.handlers
            return handler(replace(self, handlers=tuple(rest)))
        return self.function(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def probabilities(self) -> Tensor:
        """Attention probabilities (batch, head, query, key), by the family's own eager function."""
        function = _eager_function(self.module)
        _, weights = function(self.module, self.query, self.key, self.value, self._additive_mask(), **self.options)
        if weights is None:
            raise UnsupportedModelError(f"The eager attention of {type(self.module).__name__} gives no probabilities.")
        return weights if self.off is None else weights.masked_fill(self.off[:, None, None], 0)

    def values(self) -> Tensor:
        """Values as each query head sees them (batch, head, key, dim): grouped heads repeated."""
        groups = max(self.value.shape[1], 1)  # none in a layer without heads
        return self.value.repeat_interleave(self.query.shape[1] // groups, dim=1)

    def pairs(self) -> Tensor:
        """Which (query, key) pairs may interact (batch, 1 or head, query, key): neither masked nor padding."""
        shape = (self.query.shape[0], 1, self.query.shape[2], self.key.shape[2])
        mask = self._additive_mask()
        if mask is None:
            return torch.ones(shape, dtype=torch.bool, device=self.query.device)
        allowed = mask > _lowest(mask.dtype) / 2
        allowed = allowed.expand(shape[0], -1, shape[2], shape[3])
        if self.queries == shape[3]:
            # In self-attention every real token may look at itself, and no padding token may.
            allowed = allowed & allowed.diagonal(self.first_query, dim1=-2, dim2=-1).unsqueeze(-1)
        return allowed

    def _additive_mask(self) -> Tensor | None:
        mask, queries, keys = self.mask, self.query.shape[2], self.key.shape[2]
        if mask is None and self._is_causal_without_mask():
            positions = torch.arange(max(queries, keys), device=self.query.device)
            mask = positions[:queries, None] >= positions[None, :keys]
        if mask is None:
            return None
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
        if mask.dtype != torch.bool:
            return mask
        additive = torch.zeros(mask.shape, dtype=self.query.dtype, device=mask.device)
        return additive.masked_fill_(~mask, _lowest(self.query.dtype))

    def _is_causal_without_mask(self) -> bool:
        """SDPA alone may be told by a flag, in place of a mask, that attention is causal."""
        causal = self.options.get("is_causal")
        if causal is None:
            causal = getattr(self.module, "is_causal", True)
        return self.implementation == "sdpa" and bool(causal) and self.query.shape[2] > 1


def _rows_of(value: Any, start: int, stop: int, queries: int) -> Any:
    """The given queries' rows of a mask or bias (..., query, key); anything else as it is."""
    if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[-2] == queries > 1:
        return value[..., start:stop, :]
    return value


def _lowest(dtype: torch.dtype) -> float:
    """What stands for "never" in an additive mask: of float32 at least, in which many families take the softmax."""
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def forward_names(module: nn.Module) -> tuple[str, ...]:
    """Names that the code of a module's forward refers to."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code.co_names if code is not None else ()


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function of the module's own file: it alone knows the family's scale, caps, sinks and biases."""
    names = [name for name in forward_names(module) if name.endswith("eager_attention_forward")]
    scope = inspect.unwrap(type(module).forward).__globals__
    if len(names) != 1 or names[0] not in scope:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no eager attention function, so its attention probabilities are out of reach."
        )
    function: Callable[..., tuple[Tensor, Tensor | None]] = scope[names[0]]
    return function
