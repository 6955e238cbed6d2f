"""The one door to transformers: find attention layers, watch them at work, put another context in place.

Since version 5 a transformers model looks its attention function up by name at every call. This
module registers one function under one name, switches a model's configuration to that name inside
a context manager only, and passes each call through a stack of handlers down to the function that
the model was loaded with. It knows no model family.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from captum_attattr.attention_beside import attention_left_out
from captum_attattr.attention_call import (
    AttentionCall,
    Handler,
    Mask,
    Result,
    UnsupportedModelError,
    forward_names,
    same_tokens,
)

__all__ = [
    "AttentionCall",
    "Handler",
    "Result",
    "UnsupportedModelError",
    "attention_layers",
    "intercept",
    "is_attention_layer",
    "switch_off",
]

# Some models test this name for "sdpa", "flash" or "flex" and then take other paths: keep clear of them.
_NAME = "captum_attattr"
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


@dataclass
class _Switch:
    """A configuration that is switched to this module's attention function, and who handles its calls."""

    config: Any
    implementation: str | None
    handlers: list[Handler] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether nobody needs it any more."""
        return not self.handlers and not self.masks


_switches: dict[int, _Switch] = {}


def intercept(layers: Iterable[nn.Module], handler: Handler) -> AbstractContextManager[None]:
    """Pass every attention call of the models that hold ``layers`` to ``handler``, until the block ends.

    The handler may look at the call, ``proceed()`` with it, and return a context of its own. The last
    handler to come in is asked first. Only the models' configurations are touched, and set back in any case.
    """
    return _switched(layers, lambda switch: switch.handlers, handler)


def switch_off(layers: Iterable[nn.Module], mask: Mask) -> AbstractContextManager[None]:
    """Let ``mask`` say of every attention call, before any handler sees it, which heads are ``off``.

    What handlers put in place of an attention is switched off as well: the model is one without these heads.
    """
    return _switched(layers, lambda switch: switch.masks, mask)


@contextmanager
def _switched(layers: Iterable[nn.Module], queue: Callable[[_Switch], list[Any]], entry: Any) -> Iterator[None]:
    configs = {id(layer.config): layer.config for layer in layers}
    del layers  # what lasts must not keep a model alive
    with ExitStack() as stack:
        for config in configs.values():
            stack.enter_context(_config_switched(config, queue, entry))
        yield


@contextmanager
def _config_switched(config: Any, queue: Callable[[_Switch], list[Any]], entry: Any) -> Iterator[None]:
    switch = _switches.get(id(config))
    if switch is None:
        switch = _Switch(config, config._attn_implementation)
        if (switch.implementation or "eager") not in _IMPLEMENTATIONS:
            raise UnsupportedModelError(
                f"The model was loaded with attn_implementation={switch.implementation!r}, which gives no attention "
                "probabilities. Load it with attn_implementation='sdpa' (fused as well) or 'eager'."
            )
        _switches[id(config)] = switch
        # The form {"": name} leaves the configurations of sub-models as they are.
        config._attn_implementation = {"": _NAME}
    queue(switch).insert(0, entry)
    try:
        yield
    finally:
        queue(switch).remove(entry)
        if switch.idle:
            del _switches[id(config)]
            config._attn_implementation = {"": switch.implementation}


def _switch_of(config: Any) -> _Switch:
    if id(config) not in _switches:
        raise RuntimeError(
            "This model is a copy, made while heads of the original were masked or its attention was watched, and "
            "belongs to neither. Call set_attn_implementation('sdpa') or ('eager') on it."
        )
    return _switches[id(config)]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Result:
    switch = _switch_of(module.config)
    implementation = switch.implementation or "eager"
    handlers = tuple(switch.handlers)
    same = same_tokens(module, query, key)
    call = AttentionCall(module, query, key, value, attention_mask, options, implementation, handlers, same_tokens=same)
    for mask in switch.masks:
        call = mask(call)
    return call.proceed()


def _mask(*args: Any, config: Any, **kwargs: Any) -> Tensor | None:
    implementation = _switch_of(config).implementation or "eager"
    mask: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[implementation](*args, config=config, **kwargs)
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
