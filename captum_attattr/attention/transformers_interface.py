"""The adapter to transformers' attention: find attention layers, watch their calls, replace their contexts.

Since version 5 a transformers model looks its attention function up by name at every call. The look-up is wrapped here:
if the calling thread watches the model, or heads are masked, it returns a function that passes each call through
handlers down to the original function; otherwise it returns the original function itself. Neither the model nor its
configuration is changed: some models look at the name of their implementation and compute something else under a name
that they do not know. No code here depends on the model's family.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from captum_attattr.attention.call import (
    AttentionCall,
    Handler,
    Mask,
    Result,
    UnsupportedModelError,
    forward_names,
    same_tokens,
)
from captum_attattr.attention.left_out import attention_left_out

__all__ = [
    "AttentionCall",
    "Handler",
    "Result",
    "UnsupportedModelError",
    "attention_layers",
    "intercepted",
    "is_attention_layer",
    "masks",
    "refuse_out_of_reach",
]

T = TypeVar("T")

_IMPLEMENTATIONS = ("eager", "sdpa")


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """Return the attention layers of a Hugging Face model, in the order in which the model holds and runs them.

    Args:
        model: Any model, or part of one, whose attention goes through transformers' attention interface.

    Returns:
        The innermost modules that compute attention, for the argument ``layer`` of :class:`SelfAttentionAttribution`. A
        layer that the model runs several times (ALBERT) is listed once.

    Raises:
        TypeError: ``model`` is not a module.
        UnsupportedModelError: None of its modules goes through the interface.

    Warns:
        UserWarning: Other modules seem to compute attention by code of their own, and are left out.

    Example:
        >>> from captum_attattr import attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> len(attention_layers(model))
        6
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attention_layers needs a torch.nn.Module, got {type(model).__name__}.")
    layers = [module for module in model.modules() if is_attention_layer(module)]
    if not layers:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no attention layer that goes through transformers' attention interface. "
            "Models with attention code of their own (DeBERTa, MPNet, XLNet, BLOOM, Longformer, torch.nn.Transformer "
            "and others) cannot be explained by it; BERT, RoBERTa, DistilBERT, ELECTRA, GPT-2, Llama, ViT and most "
            "newer models can."
        )
    left_out = attention_left_out(model, layers)
    if left_out:
        warnings.warn(
            f"{len(layers)} attention layers of {type(model).__name__} go through transformers' attention interface. "
            f"Left out, since they compute attention by code of their own: {left_out}.",
            stacklevel=2,
        )
    return layers


def is_attention_layer(module: nn.Module) -> bool:
    """Whether a module gets its attention function from transformers' attention interface."""
    return hasattr(module, "config") and "ALL_ATTENTION_FUNCTIONS" in forward_names(module)


def refuse_out_of_reach(layers: Iterable[nn.Module]) -> None:
    """Raise an error if the attention of these layers cannot be watched with the model's implementation.

    Raises:
        UnsupportedModelError: Their attention gives no probabilities, or does not go through the interface.
    """
    for layer in layers:
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


class _Watch(NamedTuple):
    """A handler of the attention calls of the models with these configurations."""

    configs: list[Any]
    handler: Handler

    def sees(self, module: nn.Module) -> bool:
        return any(getattr(module, "config", None) is config for config in self.configs)


_watches: ContextVar[tuple[_Watch, ...]] = ContextVar("captum_attattr_watches", default=())

masks: dict[int, Mask] = {}
"""Functions that set ``off`` in every attention call, in all threads and before any handler gets the call.

Contexts that handlers put in place are switched off as well, so that the model runs without these heads.
"""


def intercepted(layers: Iterable[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
    """Call a function in which every attention call of the models that hold ``layers`` goes to ``handler``.

    The handler may inspect the call, ``proceed()`` with it, and return a context of its own. Of nested handlers the
    innermost gets the call first. Only calls in this thread are handled. The handler is set in a copy of the context
    (``contextvars``), which ends with the function, even if it raises an error.
    """
    layers = list(layers)
    refuse_out_of_reach(layers)
    watch = _Watch(list({id(layer.config): layer.config for layer in layers}.values()), handler)
    return copy_context().run(_watching, watch, function)


def _watching(watch: _Watch, function: Callable[[], T]) -> T:
    _watches.set((watch, *_watches.get()))
    return function()


@torch.compiler.disable  # handlers and masks must not be compiled into a model
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
    handlers = tuple(watch.handler for watch in _watches.get() if watch.sees(module))
    same = same_tokens(module, query, key)
    call = AttentionCall(
        module, query, key, value, attention_mask, options, implementation, function, handlers, same_tokens=same
    )
    for mask in tuple(masks.values()):
        call = mask(call)
    return call.proceed()


def _watched(implementation: str | None, function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the attention function itself, or one that passes calls through handlers and masks if there are any."""
    if not (_watches.get() or masks):
        return function
    return partial(_attention, implementation or "eager", function)


_getitem, _get_interface = AttentionInterface.__getitem__, AttentionInterface.get_interface

# Models look their function up in one of these two ways; the default is the model's own eager attention.
AttentionInterface.__getitem__ = lambda self, name: _watched(name, _getitem(self, name))
AttentionInterface.get_interface = lambda self, attn_implementation, default: _get_interface(
    self, attn_implementation, _watched(attn_implementation, default)
)
