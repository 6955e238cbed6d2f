"""The strongest token pairs and heads of scores, and names to tell equal tokens apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenPair(NamedTuple):
    """Positions of a query and the key that it looks at, and the attribution of the pair."""

    query: int
    key: int
    score: float


class Head(NamedTuple):
    """Numbers of a head's layer in the model and of the head in the layer, and the attribution of the head."""

    layer: int
    head: int
    score: float


def strongest_pairs(scores: Tensor, k: int, left_out: Sequence[bool] | None = None) -> list[TokenPair]:
    """Return the k pairs of (query, key) with the largest magnitude above 0, without tokens that are left out."""
    magnitude = scores.abs()
    if left_out is not None:
        without = torch.tensor(left_out, device="cpu")
        magnitude = magnitude.masked_fill(without[:, None] | without[None, :], -1)
    best = magnitude.flatten().topk(min(max(k, 0), magnitude.numel())).indices.tolist()
    places = [divmod(place, scores.shape[1]) for place in best if magnitude.reshape(-1)[place] > 0]
    return [TokenPair(query, key, float(scores[query, key])) for query, key in places]


def strongest_heads(scores: Tensor, layers: Sequence[int], k: int) -> list[Head]:
    """Return the k heads of (layer, head) with the largest magnitude."""
    best = scores.abs().flatten().topk(min(max(k, 0), scores.numel())).indices.tolist()
    places = [divmod(place, scores.shape[1]) for place in best]
    return [Head(layers[layer], head, float(scores[layer, head])) for layer, head in places]


def numbered(tokens: Sequence[str]) -> list[str]:
    """Return unique names: later occurrences of the same token end with "(2nd)", "(3rd)".

    Example:
        >>> numbered(["was", "it", "was"])
        ['was', 'it', 'was (2nd)']
    """
    seen, names = Counter[str](), []
    for token in tokens:
        seen[token] += 1
        names.append(token if seen[token] == 1 else f"{token} ({_ordinal(seen[token])})")
    return names


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
