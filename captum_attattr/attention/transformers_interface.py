"""The backend for transformers' attention interface.

Since version 5 a transformers model looks its attention function up by name at every call. The look-up is wrapped here:
if the calling thread watches the model, or heads are masked, it returns a function that passes each call through
handlers down to the original function; otherwise it returns the original function itself. Neither the model nor its
configuration is changed: some models look at the name of their implementation and compute something else under a name
that they do not know. No code here depends on the model's family.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from captum_attattr.attention.backend import Backend, masks
from captum_attattr.attention.call import Handler, Result, UnsupportedModelError
from captum_attattr.attention.interface_call import InterfaceCall, forward_names, same_tokens

T = TypeVar("T")

_IMPLEMENTATIONS = ("eager", "sdpa")


class TransformersInterface(Backend):
    """Attention that goes through transformers' attention interface, in eager form or by SDPA."""

    def holds(self, module: nn.Module) -> bool:
        """See :meth:`Backend.holds`."""
        return hasattr(module, "config") and "ALL_ATTENTION_FUNCTIONS" in forward_names(module)

    def refuse_out_of_reach(self, layer: nn.Module) -> None:
        """See :meth:`Backend.refuse_out_of_reach`."""
        implementation = layer.config._attn_implementation or "eager"  # type: ignore[union-attr]
        if implementation not in _IMPLEMENTATIONS:
            raise UnsupportedModelError(
                f"The model was loaded with attn_implementation={implementation!r}, which gives no attention "
                "probabilities. Load it with attn_implementation='sdpa' (fused as well) or 'eager'."
            )
        if implementation == "eager" and "get_interface" not in forward_names(layer):
            raise UnsupportedModelError(
                f"{type(layer).__name__} gets its eager attention without transformers' interface, so it cannot be "
                "watched: load the model with attn_implementation='sdpa'."
            )

    def watching(self, layers: Sequence[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
        """See :meth:`Backend.watching`.

        The handler is set in a copy of the context (``contextvars``), which ends with the function, even if it raises.
        """
        watch = _Watch(list({id(layer.config): layer.config for layer in layers}.values()), handler)
        return copy_context().run(_watching, watch, function)

    def masked(self, model: nn.Module, layers: Sequence[nn.Module], mask: Hashable) -> None:
        """See :meth:`Backend.masked`: all calls are handled while there is any mask."""

    def masked_no_more(self, mask: Hashable) -> None:
        """See :meth:`Backend.masked_no_more`."""


_BACKEND = TransformersInterface()


class _Watch(NamedTuple):
    """A handler of the attention calls of the models with these configurations."""

    configs: list[Any]
    handler: Handler

    def sees(self, module: nn.Module) -> bool:
        return any(getattr(module, "config", None) is config for config in self.configs)


_watches: ContextVar[tuple[_Watch, ...]] = ContextVar("captum_attattr_watches", default=())


def _watching(watch: _Watch, function: Callable[[], T]) -> T:
    _watches.set((watch, *_watches.get()))
    return function()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # handlers and masks must not be compiled into a model
def _attention(
    implementation: str,
    function: Callable[..., Result],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> Result:
    call = InterfaceCall(
        module=module,
        handlers=tuple(watch.handler for watch in _watches.get() if watch.sees(module)),
        same_tokens=same_tokens(module, query, key),
        query=query,
        key=key,
        value=value,
        mask=attention_mask,
        options=options,
        implementation=implementation,
        function=function,
    )
    return _BACKEND.handled(call)


def _watched(implementation: str | None, function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the attention function itself, or one that passes calls through handlers and masks if there are any."""
    if implementation == "sdpa" and Backend.without_heads:
        function = partial(_unless_without_heads, function)
    if not (_watches.get() or masks):
        return function
    return partial(_attention, implementation or "eager", function)


def _unless_without_heads(
    function: Callable[..., Result],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **options: Any,
) -> Result:
    """Call the attention function, unless the layer has no heads: SDPA on a GPU then divides by zero and kills Python.

    Seen in torch 2.11; see https://github.com/pytorch/pytorch/pull/191325.
    """
    if query.shape[1]:
        return function(module, query, key, value, *args, **options)
    return (query @ key.transpose(2, 3) @ value).transpose(1, 2), None


_getitem, _get_interface = AttentionInterface.__getitem__, AttentionInterface.get_interface

# Models look their function up in one of these two ways; the default is the model's own eager attention.
AttentionInterface.__getitem__ = lambda self, name: _watched(name, _getitem(self, name))
AttentionInterface.get_interface = lambda self, attn_implementation, default: _get_interface(
    self, attn_implementation, _watched(attn_implementation, default)
)
