"""The method computed the slow way, in float64, written like the formula and independent of the package's engine.

The attention matrix itself is in the graph, every step is a whole pass of the whole batch, and the only thing
taken from the package is what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

Replace = Callable[[nn.Module, Tensor], Tensor]
_replace: list[Replace] = []


def _injected_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, position_bias=None, **kwargs
):
    """Plain softmax attention; the matrix passes through the test's function before it meets the values."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    for bias in (position_bias, attention_mask):
        if bias is not None:
            logits = logits + bias
    attention = _replace[-1](module, logits.softmax(-1))
    return (attention @ value).transpose(1, 2).contiguous(), attention


def _additive_mask(*args, **kwargs):
    return ALL_MASK_ATTENTION_FUNCTIONS["eager"](*args, **kwargs)


AttentionInterface.register("oracle", _injected_attention)
AttentionMaskInterface.register("oracle", _additive_mask)


@contextmanager
def injected(model, replace: Replace):
    """Inside, every attention matrix of the model passes through ``replace(module, matrix)``."""
    # Encoder and decoder may have a configuration each.
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    before = {number: config._attn_implementation for number, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = {"": "oracle"}
    _replace.append(replace)
    try:
        yield
    finally:
        _replace.pop()
        for number, config in configs.items():
            config._attn_implementation = {"": before[number]}


def clean_attention(model, forward: Callable[[], Tensor], layers: Sequence[nn.Module]) -> list[Tensor]:
    found: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, attention: Tensor) -> Tensor:
        found[module] = attention.detach()
        return attention

    with injected(model, note), torch.no_grad():
        forward()
    return [found[layer] for layer in layers]


def scaled(model, forward, attention: dict[nn.Module, Tensor]) -> Tensor:
    """F with the attention of some layers put in by hand."""
    with injected(model, lambda module, own: attention.get(module, own)):
        return forward()


def direct_attribution(
    model,
    forward: Callable[[], Tensor],
    layers: Sequence[nn.Module],
    baselines: Sequence[Tensor] | None = None,
    padding: Tensor | None = None,
    nodes: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    n_steps: int = 20,
) -> tuple[list[Tensor], Tensor]:
    """(A - A0) * sum_k w_k dF(A0 + a_k (A - A0))/dA of ``layers`` scaled together, and F(A) - F(A0).

    ``forward`` gives F of each example, (batch,). ``padding`` (batch, tokens) marks tokens whose rows do not count:
    there A0 is A. Without ``nodes`` the rule is Gauss-Legendre's of ``n_steps``. For the layerwise path call it with
    one layer at a time.
    """
    if nodes is None:
        points, masses = np.polynomial.legendre.leggauss(n_steps)
        nodes, weights = (points + 1) / 2, masses / 2
    clean = clean_attention(model, forward, layers)
    starts = (
        [torch.zeros_like(a) for a in clean]
        if baselines is None
        else [b.to(a).expand_as(a) for a, b in zip(clean, baselines)]
    )
    if padding is not None:
        starts = [torch.where(padding[:, None, :, None], a, s) for a, s in zip(clean, starts)]
    gradients = [torch.zeros_like(a) for a in clean]
    for alpha, weight in zip(nodes, weights):
        points = [(s + float(alpha) * (a - s)).requires_grad_() for a, s in zip(clean, starts)]
        value = scaled(model, forward, dict(zip(layers, points)))
        for total, gradient in zip(gradients, torch.autograd.grad(value.sum(), points)):
            total += float(weight) * gradient
    with torch.no_grad():
        difference = forward() - scaled(model, forward, dict(zip(layers, starts)))
    return [(a - s) * g for a, s, g in zip(clean, starts, gradients)], difference
