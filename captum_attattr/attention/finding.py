"""The attention layers of a model, as its modules show them or as a pass does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from captum_attattr.attention.backends import BACKENDS, backend_of, intercepted
from captum_attattr.attention.call import UnsupportedModelError
from captum_attattr.attention.head_counts import found_heads
from captum_attattr.attention.left_out import attention_left_out
from captum_attattr.attention.search import Kind, Search

KINDS = get_args(Kind)


def attention_layers(model: nn.Module, *example_inputs: Any, kind: str | None = None) -> list[nn.Module]:
    """Return the attention layers of a model.

    A layer is the innermost module that computes attention probabilities and multiplies them with values: through
    transformers' attention interface, by ``scaled_dot_product_attention``, or by a softmax and a product of its own.
    Without example inputs the layers are known from the code of the modules; with them the model runs once, and the
    layers are those that made attention calls in it.

    Args:
        model: Any model, or part of one.
        example_inputs: What the model is called with, to find its layers by a pass: positional arguments, or one
            dictionary of keyword arguments, as from a tokenizer. The pass needs two tokens or more to tell kinds.
        kind: Only layers of one kind: "encoder" (tokens look at each other), "decoder" (no token looks at a later one),
            "cross" (the keys are other tokens than the queries: the values do not come from the first tensor that the
            layer gets, by custom the states of the queries); or only those in a part of the model, by its path, as
            "vision_model". Kinds need a pass; transformers models whose inputs are token ids run on inputs of their own
            if there are no ``example_inputs``.

    Returns:
        The layers, for the argument ``layer`` of :class:`SelfAttentionAttribution`. Without a pass: in the order in
        which the model holds them, each once. By a pass: in the order of their calls, and a layer that makes several
        calls once for each of them; layers that this pass does not reach are left out.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``kind`` is no kind and no path of the model, or it needs example inputs.
        UnsupportedModelError: None of its modules computes attention, or in a way that cannot be followed.

    Warns:
        UserWarning: Other modules seem to compute attention in a way that cannot be followed, and are left out.

    Example:
        >>> from captum_attattr import attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> len(attention_layers(model))
        6
        >>> len(attention_layers(model, tokenizer("A warm, funny film.", return_tensors="pt"), kind="decoder"))
        0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attention_layers needs a torch.nn.Module, got {type(model).__name__}.")
    within = model if kind is None or kind in KINDS else _part(model, kind)
    if example_inputs or kind in KINDS:
        layers = _by_a_pass(model, example_inputs or _own_inputs(model), kind)
        inside = set(within.modules())
        return [layer for layer in layers if layer in inside]
    return _by_the_modules(within)


def is_attention_layer(module: nn.Module) -> bool:
    """Whether a module is an attention layer that can be explained."""
    return backend_of(module) is not None


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


def _part(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        parts = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}, or the path of a part of {type(model).__name__} ({parts}, or "
            f"deeper); got {path!r}."
        ) from error


def _by_the_modules(model: nn.Module) -> list[nn.Module]:
    layers = [module for module in model.modules() if is_attention_layer(module)]
    left_out = attention_left_out(model, layers)
    if not layers:
        raise UnsupportedModelError(_none_in(model, left_out))
    _warn_of(model, len(layers), left_out)
    return layers


def _by_a_pass(model: nn.Module, inputs: Sequence[Any], kind: str | None) -> list[nn.Module]:
    others = {module for module in model.modules() if backend_of(module) not in (None, BACKENDS[-1])}
    for module in model.modules():
        BACKENDS[-1].refuse_out_of_reach(module)
    search = Search(others.__contains__, is_attention_layer)
    named: Any = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else None
    run = partial(model, *inputs) if named is None else partial(model, **named)
    with torch.no_grad():
        search.search(model, partial(intercepted, others, search.handle, run))
    met = [call.layer for call in search.found]
    known = [module for module in model.modules() if is_attention_layer(module)]  # of these, others are not reached
    left_out = attention_left_out(model, [*met, *known], search.refused)
    if not met:
        raise UnsupportedModelError(_none_in(model, left_out))
    _warn_of(model, len(set(met)), left_out)
    found_heads.update({call.layer: call.heads for call in search.found if call.layer not in others})
    return [call.layer for call in search.found if kind not in KINDS or call.kind == kind]


def _own_inputs(model: nn.Module) -> Sequence[Any]:
    """The inputs that transformers gives a model of token ids for a try."""
    if getattr(model, "main_input_name", None) != "input_ids":
        raise ValueError(
            "The kind of a layer is known from a pass: give example inputs, attention_layers(model, *inputs, kind=...)."
        )
    ids = torch.tensor([[5, 6, 7, 8]], device=next((one.device for one in model.parameters()), None))
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}  # type: ignore[union-attr]
    return [{"input_ids": ids, **decoder}]


def _none_in(model: nn.Module, left_out: str) -> str:
    reason = f" that can be followed ({left_out} compute it in another way)" if left_out else ""
    return (
        f"{type(model).__name__} has no attention layer{reason}. A layer multiplies the result of a softmax over the "
        "last axis, as a whole, with values, or calls scaled_dot_product_attention. Where modules do not show it, a "
        "pass may: attention_layers(model, *example_inputs)."
    )


def _warn_of(model: nn.Module, found: int, left_out: str) -> None:
    if left_out:
        warnings.warn(
            f"{found} attention layers of {type(model).__name__} were found. Left out, since they compute attention in "
            f"a way that cannot be followed: {left_out}.",
            stacklevel=4,
        )
