"""The tree as the paper grows it, each layer divided by its own largest share.

Source: Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021. Sizes in different layers cannot be compared: in a
layer that adds next to nothing some edge has the score 1 all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_attattr.tree.growth import Grown, Link


def grow_by_layer(attributions: Tensor, root: int | None, tau: float, top_tau: float) -> Grown:
    """The paper's tree: under the root the token that gathers the most, and what hangs on that."""
    top, scores = _top_node(attributions, root), _edge_scores(attributions, root)
    return Grown(top, scores, _grow(scores, top, root, tau, top_tau), 0 if root is None else 1)


def _top_node(attributions: Tensor, root: int | None) -> int:
    """The token, root apart, that gathers the most from other tokens, over all layers."""
    total = attributions.sum(0)
    gathered = total.sum(-1) - total.diagonal()
    if root is not None:
        gathered[root] = -torch.inf
    return int(gathered.argmax())


def _edge_scores(attributions: Tensor, root: int | None) -> Tensor:
    """Each layer divided by its largest share in rows other than the root's; by its largest magnitude if there is none.

    In the top layer of a classifier that reads [CLS] alone, there is none: all other rows are zero.
    """
    others = torch.arange(attributions.shape[1]) != (-1 if root is None else root)
    largest = attributions[:, others].amax((1, 2), keepdim=True)
    size = torch.where(largest > 0, largest, attributions.abs().amax((1, 2), keepdim=True))
    return torch.where(size > 0, attributions / size, 0)


def _grow(scores: Tensor, top: int, root: int | None, tau: float, top_tau: float) -> list[Link]:
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
