"""Attributions as bertviz takes them: weights from 0 to 1, a tensor for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captum_attattr.arguments import check_choice

WeightKind = Literal["magnitude", "positive", "negative", "attention"]


def weights_of_layers(attributions: Tensor, attention: Tensor, kind: str) -> Tensor:
    """Compute weights from 0 to 1 of one kind, in the shape of the attributions."""
    kinds = {
        "magnitude": attributions.abs(),
        "positive": attributions.clamp(min=0),
        "negative": attributions.neg().clamp(min=0),
        "attention": attention,
    }
    check_choice("kind", kind, list(kinds))
    if kind == "attention":
        return attention
    largest = attributions.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, kinds[kind] / largest, 0)


def by_layer(weights: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
    """Return weights (L, H, T, T) as (1, H, T, T) for each layer of the model up to the last of these, 0 for others."""
    given = dict(zip(layers, weights.unsqueeze(1), strict=True))
    blank = torch.zeros((), device="cpu").expand_as(weights[:1])
    return tuple(given.get(number, blank) for number in range(max(layers) + 1))
