"""All backends: find a model's attention layers, watch their calls, replace their contexts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from captum_attattr.attention.backend import Backend
from captum_attattr.attention.call import Handler, UnsupportedModelError
from captum_attattr.attention.left_out import attention_left_out
from captum_attattr.attention.transformers_interface import TransformersInterface

T = TypeVar("T")

BACKENDS: tuple[Backend, ...] = (TransformersInterface(),)


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
    """Whether a module is an attention layer that can be explained."""
    return any(backend.holds(module) for backend in BACKENDS)


def check_layers(layer: Any) -> None:
    """Check that ``layer`` is an attention layer or a list of them.

    Raises:
        TypeError: It is not a module or a list of modules.
        ValueError: A module is no attention layer itself, or there is none.
    """
    layers = layer if isinstance(layer, (list, tuple)) else [layer]
    if not layers:
        raise ValueError("layer is an empty list: give at least one attention layer, as from attention_layers(model).")
    for module in layers:
        if not isinstance(module, nn.Module):
            raise TypeError(f"layer must be a module or a list of modules, got {type(module).__name__}.")
        if not is_attention_layer(module):
            inside = len(attention_layers(module))  # raises its own error where there is none
            raise ValueError(
                f"{type(module).__name__} is not an attention layer itself but holds {inside}: give "
                "attention_layers(model), or some of these layers."
            )


def refuse_out_of_reach(layers: Iterable[nn.Module]) -> None:
    """Raise an error if the attention of these layers cannot be watched as the model is set up.

    Raises:
        UnsupportedModelError: Their attention gives no probabilities, or does not go through the interface.
    """
    for layer in layers:
        for backend in BACKENDS:
            if backend.holds(layer):
                backend.refuse_out_of_reach(layer)


def intercepted(layers: Iterable[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
    """Call a function in which every attention call of the models that hold ``layers`` goes to ``handler``.

    See :meth:`Backend.watching`.
    """
    layers = list(layers)
    refuse_out_of_reach(layers)
    for backend in BACKENDS:
        held = [layer for layer in layers if backend.holds(layer)]
        if held:
            function = partial(backend.watching, held, handler, function)
    return function()
