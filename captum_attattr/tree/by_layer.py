"""The paper's tree, with each layer divided by its own largest attribution.

Source: Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021. Scores of different layers cannot be compared: even
in a layer that adds hardly anything some edge has the score 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_attattr.tree.growth import Grown, Link


def grow_by_layer(attributions: Tensor, root: int | None, tau: float, top_tau: float) -> Grown:
    """Grow the paper's tree: the top node below the root, and the tree below the top node."""
    top, scores = _top_node(attributions, root), _edge_scores(attributions, root)
    return Grown(top, scores, _grow(scores, top, root, tau, top_tau), 0 if root is None else 1)


def _top_node(attributions: Tensor, root: int | None) -> int:
    """Return the token, except the root, with the largest sum of its looks at other tokens, over all layers."""
    total = attributions.sum(0)
    gathered = total.sum(-1) - total.diagonal()
    if root is not None:
        gathered[root] = -torch.inf
    return int(gathered.argmax())


def _edge_scores(attributions: Tensor, root: int | None) -> Tensor:
    """Divide each layer by its largest attribution in rows other than the root's.

    If there is none above zero, as in the top layer of a classifier that reads only [CLS], divide by the layer's
    largest magnitude.
    """
    others = torch.arange(attributions.shape[1], device="cpu") != (-1 if root is None else root)
    largest = attributions[:, others].amax((1, 2), keepdim=True)
    size = torch.where(largest > 0, largest, attributions.abs().amax((1, 2), keepdim=True))
    return torch.where(size > 0, attributions / size, 0)


def _grow(scores: Tensor, top: int, root: int | None, tau: float, top_tau: float) -> list[Link]:
    """Grow the tree as (layer, query, key), from the top down, so that a token is a key before it is a query.

    With a root, its edge to the top node takes the top layer, and the rest grows in the layers below; without one the
    tree also grows in the top layer, with its own threshold.
    """
    depth, count, _ = scores.shape
    highest = depth - 1
    edges = [] if root is None else [(highest, root, top)]
    free = torch.ones(count, dtype=torch.bool, device="cpu")
    free[[top] if root is None else [top, root]] = False
    inside = torch.zeros(count, dtype=torch.bool, device="cpu")
    inside[top] = True
    for layer in range(highest if root is None else highest - 1, -1, -1):
        looks = scores[layer].masked_fill(~inside[:, None] | ~free, -torch.inf)
        best, queries = looks.max(0)
        keys = (best > (top_tau if layer == highest else tau)).nonzero().flatten().tolist()
        edges += [(layer, int(queries[key]), key) for key in keys]
        inside[keys], free[keys] = True, False
    return edges
