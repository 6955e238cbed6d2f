"""Attributions drawn at random, for trees."""

from __future__ import annotations

import networkx as nx
import torch
from hypothesis import strategies as st


@st.composite
def random_attributions(draw, most_tokens=9, most_layers=6):
    """Of any size, with many zeros, and with either sign or mostly for."""
    layers, heads = draw(st.integers(2, most_layers)), draw(st.integers(1, 3))
    tokens, seed = draw(st.integers(2, most_tokens)), draw(st.integers(0, 2**32))
    numbers = torch.Generator().manual_seed(seed)
    shape = (layers, heads, tokens, tokens)
    attributions = torch.randn(shape, generator=numbers, dtype=torch.float64) + draw(st.sampled_from([-1.0, 0.0, 1.0]))
    return attributions * (torch.rand(shape, generator=numbers) < draw(st.sampled_from([0.3, 1.0])))


taus = st.floats(0, 1)


def links(tree):
    return [(edge.layer, edge.query, edge.key) for edge in tree.edges]


def assert_hangs_together(tree, depth):
    """Every token but the root hangs on the tree once, at a lower layer than its parent."""
    hung = {tree.nodes[0]: depth}
    for edge in tree.edges:
        assert edge.layer < hung[edge.query]
        assert edge.key not in hung
        hung[edge.key] = edge.layer
    if tree.edges:
        assert nx.is_arborescence(tree.to_networkx())
    assert list(hung) == tree.nodes == list(tree.to_networkx())
