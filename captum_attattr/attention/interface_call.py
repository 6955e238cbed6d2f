"""One call of transformers' attention interface: its query, key, value and mask, and the model's own eager function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.attention.call import NEVER, QueryKeyCall, Result, UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class InterfaceCall(QueryKeyCall):
    """One call of an attention function of transformers.

    Shapes: query (batch, head, query, dim), key and value (batch, group, key, dim), where grouped heads share a key and
    value; the context is (batch, query, head, dim).
    """

    implementation: str
    function: Callable[..., Result]
    """The attention function that the model looked up."""

    @property
    def dropout(self) -> float:
        """See :attr:`AttentionCall.dropout`."""
        return float(self.options.get("dropout") or 0.0)

    @property
    def way(self) -> str:
        """See :attr:`AttentionCall.way`."""
        instead = "" if self.implementation == "eager" else ". Load the model with attn_implementation='eager'"
        return f"attn_implementation={self.implementation!r}{instead}"

    def narrowed(self, queries: slice) -> InterfaceCall:
        """See :meth:`AttentionCall.narrowed`."""
        start, stop, _ = queries.indices(self.query.shape[2])
        if stop - start == self.query.shape[2]:
            return self
        if self.mask is None and self._is_causal_without_mask():
            places = torch.arange(self.key.shape[2], device=self.query.device)
            mask: Tensor | None = (places[start:stop, None] >= places)[None, None]
        else:
            mask = _rows_of(self.mask, start, stop, self.query.shape[2], 2)
        options = {name: _rows_of(value, start, stop, self.query.shape[2], 3) for name, value in self.options.items()}
        return replace(self, query=self.query[:, :, start:stop], mask=mask, options=options)

    def first_keys(self, count: int) -> InterfaceCall:
        """See :meth:`AttentionCall.first_keys`."""
        keys, queries = self.key.shape[2], self.query.shape[2]
        if count == keys:
            return self

        def cut(value: Any, least: int) -> Any:
            is_matrix = isinstance(value, Tensor) and value.dim() >= least and value.shape[-2] in (1, queries)
            return value[..., :count] if is_matrix and value.shape[-1] >= keys else value

        options = {name: cut(value, 3) for name, value in self.options.items()}
        key, value = self.key[:, :, :count], self.value[:, :, :count]
        return replace(self, key=key, value=value, mask=cut(self.mask, 2), options=options)

    def select(self, examples: Tensor) -> InterfaceCall:
        """See :meth:`AttentionCall.select`."""
        batch = len(self.query)
        rows = (examples.unsqueeze(1) * self.windows + torch.arange(self.windows, device=examples.device)).flatten()

        def picked(value: Any) -> Any:
            # A mask or bias with three dimensions is (head, query, key); with four, the first is the batch or 1.
            has_batch = isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == batch > 1
            return value[rows.to(value.device)] if has_batch else value

        tensors = {name: picked(getattr(self, name)) for name in ("query", "key", "value", "mask")}
        return replace(self, **tensors, options={name: picked(value) for name, value in self.options.items()})

    def _computed(self) -> Result:
        return self.function(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def _matrices(self) -> Tensor:
        function = _eager_function(self.module)
        _, weights = function(self.module, self.query, self.key, self.value, self._additive_mask(), **self.options)
        if weights is None:
            raise UnsupportedModelError(f"The eager attention of {type(self.module).__name__} gives no probabilities.")
        return weights

    def _values(self) -> Tensor:
        groups = max(self.value.shape[1], 1)  # a layer without heads has no groups
        return self.value.repeat_interleave(self.query.shape[1] // groups, dim=1)

    def _allowed(self) -> Tensor:
        rows, heads, queries, _ = self.query.shape
        mask = self._additive_mask()
        if mask is None:
            mask = self.query.new_zeros(1, 1, 1, 1)
        heads = -1 if self.windows == 1 else heads
        return (mask > NEVER).expand(rows, heads, queries, self.key.shape[2])

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
        """Whether attention is causal by a flag in place of a mask, which only SDPA knows."""
        causal = self.options.get("is_causal")
        if causal is None:
            causal = getattr(self.module, "is_causal", True)
        return self.implementation == "sdpa" and bool(causal) and self.query.shape[2] > 1


def _rows_of(value: Any, start: int, stop: int, queries: int, least: int) -> Any:
    """Select these queries' rows of a mask or bias ((head,) query, key); anything else is returned as it is."""
    if isinstance(value, Tensor) and value.dim() >= least and value.shape[-2] == queries > 1:
        return value[..., start:stop, :]
    return value


def same_tokens(module: nn.Module, query: Tensor, key: Tensor) -> bool:
    """Whether the queries and keys of a module's attention are known to be the same tokens.

    They are if the module's forward got exactly one sequence of states (batch, token, ...), since cross-attention needs
    two. With two sequences the answer is False, which means unknown: the second may be something else, such as
    positions.
    """
    if query.shape[2] != key.shape[2]:
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    if frame is None or code is None:
        return False
    given = [frame.f_locals.get(name) for name in code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]]
    of_tokens = (query.shape[0], query.shape[2])
    return sum(isinstance(one, Tensor) and one.dim() == 3 and one.shape[:2] == of_tokens for one in given) == 1


def _lowest(dtype: torch.dtype) -> float:
    """Return the number that forbids a pair in an additive mask: the type's lowest, but not below that of float32.

    Many models compute the softmax in float32, whatever their own type.
    """
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def forward_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names that the code of a module's forward refers to; none for a scripted module."""
    if isinstance(module, torch.jit.ScriptModule):
        return ()
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code.co_names if code is not None else ()


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return the eager attention function of the module's file, which has the model's scale, caps, sinks and biases."""
    names = [name for name in forward_names(module) if name.endswith("eager_attention_forward")]
    scope = inspect.unwrap(type(module).forward).__globals__
    if len(names) != 1 or names[0] not in scope:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no eager attention function, so its attention probabilities are unknown."
        )
    function: Callable[..., tuple[Tensor, Tensor | None]] = scope[names[0]]
    return function
