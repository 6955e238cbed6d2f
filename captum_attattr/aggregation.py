"""Scores of heads, tokens, pairs and layers, from the attributions of token pairs.

All functions take attributions as :meth:`SelfAttentionAttribution.attribute` returns them: a tensor
(layer, batch, head, query, key), a list of (batch, head, query, key), or one sentence's (layer, head, query, key). The
result has a batch axis if the attributions have one. Signs are kept unless stated otherwise.

On the layerwise path each layer's attributions sum to a difference of its own, F(A) - F(A0). So sums over layers serve
to rank and compare, but do not add up to a difference of the output; on the joint path they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Normalize = Literal["max", "l1", "l2"] | None
HeadReduction = Literal["sum", "absolute", "max"]
TokenReduction = Literal["received", "sent", "first"]


def head_scores(
    attributions: Tensor | Sequence[Tensor],
    reduction: HeadReduction = "sum",
    normalize: Normalize = None,
    *,
    within_layer: bool = False,
) -> Tensor:
    """Compute one score a head: how much it adds to its layer's difference F(A) - F(A0).

    Args:
        attributions: See the module.
        reduction: "sum" of a head's attributions (the attribution of the head), "absolute" (sum of magnitudes), or
            "max", the largest attribution of one pair (Hao et al., AAAI 2021, eq. 6, before the mean over examples).
        normalize: Divide by the largest magnitude ("max"), the sum of magnitudes ("l1") or the norm ("l2").
        within_layer: Normalise each layer by itself, not all heads together.

    Returns:
        (layer, head) or (layer, batch, head).

    Example:
        >>> import torch
        >>> from captum_attattr import head_scores
        >>> head_scores(torch.ones(2, 3, 4, 4)).tolist()
        [[16.0, 16.0, 16.0], [16.0, 16.0, 16.0]]
    """
    stacked = stack_layers(attributions)
    if reduction == "sum":
        scores = stacked.sum((-2, -1))
    elif reduction == "absolute":
        scores = stacked.abs().sum((-2, -1))
    elif reduction == "max":
        scores = stacked.amax((-2, -1))
    else:
        raise ValueError(f"Unknown reduction {reduction!r} of heads. Choose 'sum', 'absolute' or 'max'.")
    return _normalized(scores, normalize, (-1,) if within_layer else (0, -1))


def token_scores(
    attributions: Tensor | Sequence[Tensor], reduction: TokenReduction = "received", normalize: Normalize = None
) -> Tensor:
    """Compute one score a token, summed over layers and heads.

    Args:
        attributions: See the module.
        reduction: "received", the sum over all queries with the token as key; "sent", the sum over all keys with the
            token as query; "first", the attribution of the first token ([CLS] in BERT) looking at it. The default is
            the most faithful one, above all on the joint path (``benchmarks/results/faithfulness.md``).
        normalize: As in :func:`head_scores`.

    Returns:
        (token,) or (batch, token).
    """
    pairs = pair_scores(attributions)
    if reduction == "received":
        scores = pairs.sum(-2)
    elif reduction == "sent":
        scores = pairs.sum(-1)
    elif reduction == "first":
        scores = pairs[..., 0, :]
    else:
        raise ValueError(f"Unknown reduction {reduction!r} to tokens. Choose 'received', 'sent' or 'first'.")
    return _normalized(scores, normalize, (-1,))


def pair_scores(attributions: Tensor | Sequence[Tensor], normalize: Normalize = None) -> Tensor:
    """Compute one score a token pair, summed over layers and heads: (query, key) or (batch, query, key)."""
    return _normalized(stack_layers(attributions).sum((0, -3)), normalize, (-2, -1))


def layer_scores(attributions: Tensor | Sequence[Tensor], normalize: Normalize = None) -> Tensor:
    """Compute one score a layer, F(A) - F(A0) up to the integration error: (layer,) or (layer, batch)."""
    return _normalized(stack_layers(attributions).sum((-3, -2, -1)), normalize, (0,))


def stack_layers(attributions: Tensor | Sequence[Tensor]) -> Tensor:
    """Return attributions as one tensor with the layers along dimension 0.

    Raises:
        ValueError: Layers have different shapes, or a tensor has another number of axes.
    """
    if not isinstance(attributions, Tensor):
        shapes = {tuple(layer.shape) for layer in attributions}
        if len(shapes) != 1:
            raise ValueError(f"Layers must have the same shape to be stacked, got {sorted(shapes)}.")
        attributions = torch.stack(list(attributions))
    if attributions.dim() not in (4, 5):
        raise ValueError(
            "Attributions must be (layer, head, query, key) or (layer, batch, head, query, key), got the shape "
            f"{tuple(attributions.shape)}. For one layer put [attributions] in a list."
        )
    return attributions


def _normalized(scores: Tensor, normalize: Normalize, over: tuple[int, ...]) -> Tensor:
    if normalize is None:
        return scores
    if normalize == "max":
        size = scores.abs().amax(over, keepdim=True)
    elif normalize == "l1":
        size = scores.abs().sum(over, keepdim=True)
    elif normalize == "l2":
        size = scores.square().sum(over, keepdim=True).sqrt()
    else:
        raise ValueError(f"Unknown normalize {normalize!r}. Choose None, 'max', 'l1' or 'l2'.")
    return torch.where(size > 0, scores / size, 0)
