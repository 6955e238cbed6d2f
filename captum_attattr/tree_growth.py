"""Which token hangs on which, in which layer: the algorithm behind :class:`captum_attattr.AttributionTree`.

Layers are places from 0, the lowest, and shares are (layer, query, key), summed over heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Link = tuple[int, int, int]
"""Layer, query and key, as places."""


class Edge(NamedTuple):
    """In this layer the query, which is in the tree, looks at the key, which hangs itself there."""

    layer: int
    query: int
    key: int
    score: float
    """The share divided by the largest of its layer: what thresholds and the penalty are compared with."""
    share: float
    """The share itself, summed over heads, in the unit of the output."""


def only_reader(shares: Tensor) -> int | None:
    """The only token with shares in the top layer: what the classifier does not read can have none there."""
    rows = shares[-1].ne(0).any(-1).nonzero().flatten().tolist()
    return rows[0] if len(rows) == 1 else None


def top_node(shares: Tensor, root: int | None) -> int:
    """The token, root apart, that gathers the most from other tokens, over all layers."""
    total = shares.sum(0)
    gathered = total.sum(-1) - total.diagonal()
    if root is not None:
        gathered[root] = -torch.inf
    return int(gathered.argmax())


def edge_scores(shares: Tensor, root: int | None) -> Tensor:
    """Each layer divided by its largest share in rows other than the root's; by its largest magnitude if there is none.

    In the top layer of a classifier that reads [CLS] alone, there is none: all other rows are zero.
    """
    others = torch.arange(shares.shape[1]) != (-1 if root is None else root)
    largest = shares[:, others].amax((1, 2), keepdim=True)
    size = torch.where(largest > 0, largest, shares.abs().amax((1, 2), keepdim=True))
    return torch.where(size > 0, shares / size, 0)


def grow(scores: Tensor, top: int, root: int | None, tau: float, top_tau: float) -> list[Link]:
    """The tree as (layer, query, key), from the top down; each token after the one that it hangs on.

    A root is put above the top node in the top layer, and the rest grows in the layers below it; without one the top
    layer takes part, with its own threshold.
    """
    depth, count, _ = scores.shape
    highest = depth - 1
    edges = [] if root is None else [(highest, root, top)]
    free = torch.ones(count, dtype=torch.bool)
    free[[top] if root is None else [top, root]] = False
    inside = torch.zeros(count, dtype=torch.bool)
    inside[top] = True
    for layer in range(highest if root is None else highest - 1, -1, -1):
        looks = scores[layer].masked_fill(~inside[:, None] | ~free, -torch.inf)
        best, queries = looks.max(0)
        keys = (best > (top_tau if layer == highest else tau)).nonzero().flatten().tolist()
        edges += [(layer, int(queries[key]), key) for key in keys]
        inside[keys], free[keys] = True, False
    return edges


def best_part(edges: Sequence[Link], scores: Tensor, root: int | None, penalty: float) -> list[Link]:
    """Of the parts of a tree that hold its top, the one with the largest sum of (score - penalty).

    What hangs on a key is worth its own edge and all that is worth keeping below it. The root's edge always stays.
    """
    gain = {key: float(scores[layer, query, key]) - penalty for layer, query, key in edges}
    for _, query, key in reversed(edges):
        if query in gain:
            gain[query] += max(gain[key], 0.0)
    kept = {edges[0][1]} if edges else set()
    part = []
    for layer, query, key in edges:
        if query in kept and (gain[key] > 0 or query == root):
            kept.add(key)
            part.append((layer, query, key))
    return part
