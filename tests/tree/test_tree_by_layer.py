"""``scale="layer"`` is the paper's tree and obeys its laws."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_attributions import assert_hangs_together, links, random_attributions, taus

from captum_attattr.tree.attribution_tree import AttributionTree

by_layer = partial(AttributionTree, scale="layer")


def paper(attributions, tau, cls=0):
    """The paper's pseudo-code in loops over numbers: states of tokens, layers from the top down, [CLS] last.

    Returns the top node, and edges (layer, i, j). Among edges of a layer the largest comes first, and a token that
    appears in a layer is asked from the next one on: what the pseudo-code leaves open.
    """
    layers, heads, n, _ = np.shape(attributions)
    a = [[[0.0] * n for _ in range(n)] for _ in range(layers)]
    for layer in range(layers):
        for i in range(n):
            for j in range(n):
                for h in range(heads):
                    a[layer][i][j] += float(attributions[layer][h][i][j])
    kept = []
    for layer in range(layers):
        largest = max(a[layer][i][j] for i in range(n) if i != cls for j in range(n))
        kept.append([(a[layer][i][j], i, j) for i in range(n) for j in range(n) if i != j and i != cls and j != cls])
        kept[layer] = [(s, i, j) for s, i, j in kept[layer] if largest > 0 and s / largest > tau]
    state = ["NotAppear"] * n
    gathered = {i: sum(a[layer][i][j] for layer in range(layers) for j in range(n) if j != i) for i in range(n)}
    del gathered[cls]
    top = max(gathered, key=gathered.get)
    state[top] = "Appear"
    edges = []
    for layer in range(layers - 2, -1, -1):
        before = list(state)
        for _, i, j in sorted(kept[layer], reverse=True):
            if before[i] in ("Appear", "Fixed") and state[j] == "NotAppear":
                edges.append((layer, i, j))
                state[i], state[j] = "Fixed", "Appear"
    return top, [(layers - 1, cls, top), *edges]


@settings(max_examples=100, deadline=None)
@given(random_attributions(), taus)
def test_it_is_the_papers_tree(attributions, tau):
    top, edges = paper(attributions.tolist(), tau)
    tree = by_layer(attributions, tau=tau, root=0)
    assert tree.top == top
    assert sorted(links(tree)) == sorted(edges)


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, st.sampled_from([0, -1, "none"]), st.sampled_from([0.0, 0.3]))
def test_every_token_but_the_root_hangs_on_the_tree_at_a_lower_layer_than_its_parent(attributions, tau, root, penalty):
    tree = by_layer(attributions, tau=tau, root=root, penalty=penalty)
    assert_hangs_together(tree, len(attributions))


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, st.sampled_from([0, "none"]))
def test_every_edge_below_the_roots_is_above_its_threshold(attributions, tau, root):
    tree = by_layer(attributions, tau=tau, root=root)
    summed = attributions.sum(1)
    for edge in tree.edges[0 if root == "none" else 1 :]:
        rows = summed[edge.layer] if root == "none" else summed[edge.layer, 1:]
        assert edge.attribution == pytest.approx(float(summed[edge.layer, edge.query, edge.key]))
        assert edge.score == pytest.approx(edge.attribution / float(rows.max()))
        assert (0 if edge.layer == len(attributions) - 1 else tau) < edge.score <= 1


@settings(max_examples=100, deadline=None)
@given(random_attributions(), taus, taus)
def test_with_a_lower_threshold_no_token_leaves_the_tree_or_hangs_lower(attributions, one, other):
    few, many = (by_layer(attributions, tau=tau, root=0) for tau in (max(one, other), min(one, other)))
    low, high = ({edge.key: edge.layer for edge in tree.edges} for tree in (few, many))
    assert low.keys() <= high.keys()
    assert all(high[key] >= layer for key, layer in low.items())
    assert few.top == many.top
    assert len(few.edges) <= len(many.edges)


def test_with_a_lower_threshold_an_edge_may_give_way_to_a_higher_one():
    attributions = torch.zeros(4, 1, 4, 4)
    attributions[3, 0, 0, 1] = 1
    attributions[2, 0, 1, 1], attributions[2, 0, 1, 2] = 3, 1  # weak, but higher up
    attributions[1, 0, 1, 2] = 1
    assert links(by_layer(attributions, tau=0.4)) == [(3, 0, 1), (1, 1, 2)]
    assert links(by_layer(attributions, tau=0.2)) == [(3, 0, 1), (2, 1, 2)]


@settings(max_examples=50, deadline=None)
@given(random_attributions())
def test_a_threshold_of_one_leaves_the_single_edge_from_the_root_to_the_token_that_gathers_most(attributions):
    tree = by_layer(attributions, tau=1.0, root=0)
    total = attributions.sum((0, 1)).fill_diagonal_(0).sum(1)[1:]
    assert links(tree) == [(len(attributions) - 1, 0, 1 + int(total.argmax()))]


@settings(max_examples=60, deadline=None)
@given(random_attributions(most_tokens=7), st.floats(0, 0.3), st.floats(0.05, 0.9), st.sampled_from([0, "none"]))
def test_a_penalty_leaves_the_part_with_the_largest_objective(attributions, tau, penalty, root):
    whole = by_layer(attributions, tau=tau, root=root).edges
    fixed, free = (whole[:0], whole) if root == "none" else (whole[:1], whole[1:])
    tree = by_layer(attributions, tau=tau, root=root, penalty=penalty)
    best = -np.inf
    for size in range(len(free) + 1):
        for choice in combinations(free, size):
            part = [*fixed, *choice]
            inside = {tree.nodes[0]} | {edge.key for edge in part}
            if all(edge.query in inside for edge in part):
                best = max(best, sum(edge.score - penalty for edge in part))
    assert tree.objective == pytest.approx(best)
    assert set(tree.edges) <= set(whole)


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, taus, taus)
def test_with_a_higher_penalty_the_tree_is_a_part_of_what_it_was(attributions, tau, one, other):
    small, large = (by_layer(attributions, tau=tau, root=0, penalty=p) for p in (max(one, other), min(one, other)))
    assert set(small.edges) <= set(large.edges)


def test_a_costly_edge_stays_where_more_hangs_on_it_than_it_costs():
    attributions = torch.zeros(3, 1, 6, 6)
    attributions[2, 0, 0, 1] = 1
    attributions[1, 0, 1, 1], attributions[1, 0, 1, 2], attributions[1, 0, 1, 3] = 10, 7, 5
    attributions[0, 0, 1, 1], attributions[0, 0, 2, 4], attributions[0, 0, 3, 5] = 10, 5, 10
    assert links(by_layer(attributions))[1:] == [(1, 1, 2), (1, 1, 3), (0, 2, 4), (0, 3, 5)]
    # At 0.6 the edge to 4 is not worth its price, the one to 3 is, by what hangs on it; at 0.8 only the root's is.
    assert links(by_layer(attributions, penalty=0.6))[1:] == [(1, 1, 2), (1, 1, 3), (0, 3, 5)]
    assert links(by_layer(attributions, penalty=0.8))[1:] == []


def worked(**options):
    """[CLS] good not bad [SEP] in three layers of two heads, the sums over heads written out."""
    attributions = torch.zeros(3, 2, 5, 5)
    attributions[2, :, 0, 3], attributions[2, :, 0, 1] = 0.2, 0.3
    attributions[1, :, 3, 2], attributions[1, :, 3, 4], attributions[1, 0, 1, 4] = 0.4, 0.1, 0.5
    attributions[0, 0, 2, 1], attributions[0, 1, 3, 1], attributions[0, 0, 3, 4], attributions[0, :, 0, 4] = (
        0.2,
        0.1,
        0.05,
        9,
    )
    return by_layer(attributions, ["[CLS]", "good", "not", "bad", "[SEP]"], **options)


def test_a_tree_worked_out_by_hand():
    tree = worked()
    assert (tree.root, tree.top, tree.nodes) == (0, 3, [0, 3, 2, 1])
    assert links(tree) == [(2, 0, 3), (1, 3, 2), (0, 2, 1)]
    np.testing.assert_allclose([edge.score for edge in tree.edges], [0.2 / 0.3, 1, 1], rtol=1e-6)
    np.testing.assert_allclose([edge.attribution for edge in tree.edges], [0.4, 0.8, 0.2], rtol=1e-6)
    assert links(worked(tau=0.2))[1:] == [(1, 3, 2), (1, 3, 4), (0, 2, 1)]
    assert worked(layers=[7, 9, 11]).edges[1].layer == 9
    assert repr(tree) == "AttributionTree([CLS] -> bad, 3 edges, 3 layers)"


def test_where_all_tokens_are_read_the_top_node_is_the_root_and_the_tree_grows_from_the_top_layer():
    attributions = torch.zeros(2, 1, 3, 3)
    attributions[1, 0, 1, 0], attributions[1, 0, 1, 1], attributions[0, 0, 0, 2] = 0.01, 1, 0.005
    tree = by_layer(attributions, root="none")
    assert (tree.root, tree.top) == (None, 1)
    assert links(tree) == [(1, 1, 0), (0, 0, 2)]
    assert links(by_layer(attributions, root="none", top_tau=0.1)) == []
    assert by_layer(attributions, root="none", top_tau=0.1).nodes == [1]


def test_no_attribution_at_all_is_a_tree_of_its_root_and_one_token():
    tree = by_layer(torch.zeros(3, 2, 4, 4))
    assert links(tree) == [(2, 0, 1)]
    assert tree.edges[0].score == 0


def test_a_layer_of_no_weight_has_strong_edges_all_the_same_which_is_why_it_is_not_the_default():
    attributions = torch.zeros(2, 1, 4, 4)
    attributions[1, 0, 0, 1], attributions[1, 0, 0, 2] = 0.001, 0.4
    attributions[0, 0, 1, 3] = 1e-6
    assert links(by_layer(attributions)) == [(1, 0, 1), (0, 1, 3)]
    assert links(AttributionTree(attributions)) == [(1, 0, 2)]
