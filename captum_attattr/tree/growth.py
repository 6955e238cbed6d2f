"""The algorithm of :class:`captum_attattr.AttributionTree`: which edges a tree has.

Layers are indices from 0, the lowest, and attributions are (layer, query, key), summed over heads. Here all layers are
on one scale; :mod:`captum_attattr.tree.by_layer` divides each by its own largest attribution, as the paper does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Link = tuple[int, int, int]
"""Layer, query and key, as indices."""


class Edge(NamedTuple):
    """An edge of the tree: in this layer the query, a token of the tree, looks at the key, which the edge adds."""

    layer: int
    query: int
    key: int
    score: float
    """The attribution divided by the total, or by the largest one of its layer; thresholds and penalty apply to it."""
    attribution: float
    """The attribution, summed over heads, in the unit of the output."""

    @property
    def share(self) -> float:
        """The former name of ``attribution``."""
        return self.attribution


class Grown(NamedTuple):
    """A complete tree, before the penalty removes branches."""

    top: int
    scores: Tensor
    """(layer, query, key)."""
    links: list[Link]
    """From the top down: a token is a key before it is a query."""
    firm: int
    """Number of links at the beginning that stay, whatever their size."""


def total_of(attributions: Tensor) -> float:
    """Sum the magnitudes of the tokens' scores; a score is the sum over all layers and queries."""
    return float(attributions.sum((0, 1)).abs().sum())


def grow_by_attribution(attributions: Tensor, root: int | None, tau: float) -> Grown:
    """Grow a tree with all layers on one scale: always add the largest look from the tree at a token outside it.

    Looks below ``tau`` of the total are left out. Without a root the token with the largest sum of looks is the top.
    """
    total = total_of(attributions)
    sizes = attributions.abs().numpy().copy()
    sizes[:, range(sizes.shape[1]), range(sizes.shape[1])] = 0
    reader = int(sizes.sum((0, 2)).argmax()) if root is None else root
    firm = _firm_links(attributions, sizes, reader)
    links = _strongest_first(sizes, reader, firm, tau * total)
    top = links[0][2] if links and root is not None else reader
    return Grown(top, attributions / total if total > 0 else torch.zeros_like(attributions), links, len(firm))


def _firm_links(attributions: Tensor, sizes: np.ndarray, reader: int) -> list[Link]:
    """Return the reader's strongest look, and that at the token with the largest sum over layers, if another one."""
    row = sizes[:, reader]
    if not row.any():
        return []
    layer, key = divmod(int(row.argmax()), row.shape[1])
    together = attributions[:, reader].sum(0).abs().numpy() * (row.max(0) > 0)
    most = int(together.argmax())
    first = [(layer, reader, key)]
    return first if most == key or together[most] == 0 else [*first, (int(row[:, most].argmax()), reader, most)]


def _strongest_first(sizes: np.ndarray, reader: int, firm: Sequence[Link], least: float) -> list[Link]:
    """Continue from the firm links; equal looks are taken in the order of layers, queries and keys."""
    links, heights = list(firm), {reader: len(sizes)} | {key: layer for layer, _, key in firm}
    waiting = [look for token, height in heights.items() for look in _looks(sizes[:height], token, least)]
    heapq.heapify(waiting)
    while waiting:
        _, link = heapq.heappop(waiting)
        layer, _, key = link
        if key not in heights:
            links.append(link)
            heights[key] = layer
            for look in _looks(sizes[:layer], key, least):
                heapq.heappush(waiting, look)
    return links


def _looks(sizes: np.ndarray, query: int, least: float) -> Iterator[tuple[float, Link]]:
    """Yield a token's looks: each key in the layer of its largest size, as the negative size and the link."""
    if len(sizes):
        layers, most = sizes[:, query].argmax(0), sizes[:, query].max(0)
        for key in np.flatnonzero((most >= least) & (most > 0)).tolist():
            yield -float(most[key]), (int(layers[key]), query, key)


def best_part(links: Sequence[Link], worth: Tensor, firm: int, penalty: float) -> list[Link]:
    """Return the part of a tree, with its top, that has the largest sum of (worth - penalty).

    A branch is worth its own edge and all branches worth keeping below it. Firm links always stay.
    """
    gain = {key: float(worth[layer, query, key]) - penalty for layer, query, key in links}
    for _, query, key in reversed(links):
        if query in gain:
            gain[query] += max(gain[key], 0.0)
    kept = {links[0][1]} if links else set()
    part = []
    for place, (layer, query, key) in enumerate(links):
        if query in kept and (gain[key] > 0 or place < firm):
            kept.add(key)
            part.append((layer, query, key))
    return part
