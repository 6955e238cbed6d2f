"""The one door to transformers: find attention layers, watch them at work, put another context in place.

Since version 5 a transformers model looks its attention function up by name at every call. That look-up asks here:
where the calling thread watches the model, or heads of it are masked, it gets a function that passes each call through
handlers down to the one that was looked up; else that one itself. Nothing of the model is touched, its configuration
neither: some files look at the name of the implementation and compute something else under one that they do not know.
No model family is known here.
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
    """The attention layers of a Hugging Face model, in the order in which the model holds and runs them.

    Args:
        model: Any model, or part of one, whose attention goes through transformers' attention interface.

    Returns:
        The innermost modules that compute attention, to be given as ``layer`` to
        :class:`SelfAttentionAttribution`. A layer that the model runs several times (ALBERT) is there once.

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
    """Whether a module asks transformers' attention interface for its attention function."""
    return hasattr(module, "config") and "ALL_ATTENTION_FUNCTIONS" in forward_names(module)


def refuse_out_of_reach(layers: Iterable[nn.Module]) -> None:
    """Raise where the attention of these layers cannot be watched as their model was loaded.

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
                f"{type(layer).__name__} looks its eager attention up by itself, where it cannot be watched: load the "
                "model with attn_implementation='sdpa'."
            )


class _Watch(NamedTuple):
    """Who handles the attention calls of the models with these configurations."""

    configs: list[Any]
    handler: Handler

    def sees(self, module: nn.Module) -> bool:
        return any(getattr(module, "config", None) is config for config in self.configs)


_watches: ContextVar[tuple[_Watch, ...]] = ContextVar("captum_attattr_watches", default=())

masks: dict[int, Mask] = {}
"""Say of every attention call, in any thread and before any handler sees it, which heads are ``off``.

What handlers put in place of an attention is switched off as well: the model is one without these heads.
"""


def intercepted(layers: Iterable[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
    """Call a function with every attention call of the models that hold ``layers`` passed to ``handler``.

    The handler may look at the call, ``proceed()`` with it, and return a context of its own. The last handler to come
    in is asked first. Only calls in this thread are passed on, and none when the function has ended, however it ends:
    what is set in a context of its own is gone with it.
    """
    layers = list(layers)
    refuse_out_of_reach(layers)
    watch = _Watch(list({id(layer.config): layer.config for layer in layers}.values()), handler)
    return copy_context().run(_watching, watch, function)


def _watching(watch: _Watch, function: Callable[[], T]) -> T:
    _watches.set((watch, *_watches.get()))
    return function()


@torch.compiler.disable  # who watches, and what is masked, must not be compiled into a model
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
    """An attention function as who looks it up now is to have it."""
    if not (_watches.get() or masks):
        return function
    return partial(_attention, implementation or "eager", function)


_getitem, _get_interface = AttentionInterface.__getitem__, AttentionInterface.get_interface

# The two ways in which the files of models look their function up; the default is the file's own eager attention.
AttentionInterface.__getitem__ = lambda self, name: _watched(name, _getitem(self, name))
AttentionInterface.get_interface = lambda self, attn_implementation, default: _get_interface(
    self, attn_implementation, _watched(attn_implementation, default)
)
