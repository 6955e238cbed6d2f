"""The one door to transformers: find attention layers, watch them at work, put another context in place.

Since version 5 a transformers model looks its attention function up by name at every call. This
module registers one function under one name, switches a model's configuration to that name inside
a context manager only, and passes each call through a stack of handlers down to the function that
the model was loaded with. It knows no model family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

# Some models test this name for "sdpa", "flash" or "flex" and then take other paths: keep clear of them.
_NAME = "captum_attattr"
_IMPLEMENTATIONS = ("eager", "sdpa")


class UnsupportedModelError(ValueError):
    """The model's attention cannot be reached through transformers' attention interface."""


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
    return layers


def is_attention_layer(module: nn.Module) -> bool:
    """Whether a module asks transformers' attention interface for its attention function."""
    return hasattr(module, "config") and "ALL_ATTENTION_FUNCTIONS" in _forward_names(module)


def _forward_names(module: nn.Module) -> tuple[str, ...]:
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code.co_names if code is not None else ()


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function of the module's own file: it alone knows the family's scale, caps, sinks and biases."""
    names = [name for name in _forward_names(module) if name.endswith("eager_attention_forward")]
    scope = inspect.unwrap(type(module).forward).__globals__
    if len(names) != 1 or names[0] not in scope:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no eager attention function, so its attention probabilities are out of reach."
        )
    function: Callable[..., tuple[Tensor, Tensor | None]] = scope[names[0]]
    return function


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
    handlers: tuple[Handler, ...] = ()
    off: Tensor | None = None
    """(head,), True where a head's attention counts as zero, whatever is computed or put in its place."""

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
        eager = self.implementation == "eager"
        function = _eager_function(self.module) if eager else ALL_ATTENTION_FUNCTIONS[self.implementation]
        return function(self.module, self.query, self.key, self.value, self.mask, **self.options)

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
        if shape[2] == shape[3]:
            # In self-attention every real token may look at itself, and no padding token may.
            allowed = allowed & allowed.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
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


def _lowest(dtype: torch.dtype) -> float:
    """What stands for "never" in an additive mask: of float32 at least, in which many families take the softmax."""
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


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
    call = AttentionCall(module, query, key, value, attention_mask, options, implementation, handlers)
    for mask in switch.masks:
        call = mask(call)
    return call.proceed()


def _mask(*args: Any, config: Any, **kwargs: Any) -> Tensor | None:
    implementation = _switch_of(config).implementation or "eager"
    mask: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[implementation](*args, config=config, **kwargs)
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
