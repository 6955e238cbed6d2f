"""The attribution tree is the paper's, obeys its laws, and is handed on without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, groupby

import networkx as nx
import numpy as np
import pydot
import pytest
import tokenizers as tk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_explanations import made
from tiny_classifiers import bert, byte_level, gpt2, roberta

from captum_attattr import explain
from captum_attattr.tree import AttributionTree
from captum_attattr.tree_drawing import edge_width


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


@st.composite
def attributions(draw, most_tokens=9, most_layers=6):
    """Of any size, with many zeros, and with either sign or mostly for."""
    layers, heads = draw(st.integers(2, most_layers)), draw(st.integers(1, 3))
    tokens, seed = draw(st.integers(2, most_tokens)), draw(st.integers(0, 2**32))
    numbers = torch.Generator().manual_seed(seed)
    shape = (layers, heads, tokens, tokens)
    shares = torch.randn(shape, generator=numbers, dtype=torch.float64) + draw(st.sampled_from([-1.0, 0.0, 1.0]))
    return shares * (torch.rand(shape, generator=numbers) < draw(st.sampled_from([0.3, 1.0])))


taus = st.floats(0, 1)


def links(tree):
    return [(edge.layer, edge.query, edge.key) for edge in tree.edges]


@settings(max_examples=100, deadline=None)
@given(attributions(), taus)
def test_it_is_the_papers_tree(shares, tau):
    top, edges = paper(shares.tolist(), tau)
    tree = AttributionTree(shares, tau=tau, root=0)
    assert tree.top == top
    assert sorted(links(tree)) == sorted(edges)


@settings(max_examples=60, deadline=None)
@given(attributions(), taus, st.sampled_from([0, -1, "none"]), st.sampled_from([0.0, 0.3]))
def test_every_token_but_the_root_hangs_on_the_tree_at_a_lower_layer_than_its_parent(shares, tau, root, penalty):
    tree = AttributionTree(shares, tau=tau, root=root, penalty=penalty)
    hung = {tree.nodes[0]: len(shares)}
    for edge in tree.edges:
        assert edge.layer < hung[edge.query]
        assert edge.key not in hung
        hung[edge.key] = edge.layer
    if tree.edges:
        assert nx.is_arborescence(tree.to_networkx())
    assert list(hung) == tree.nodes == list(tree.to_networkx())


@settings(max_examples=60, deadline=None)
@given(attributions(), taus, st.sampled_from([0, "none"]))
def test_every_edge_below_the_roots_is_above_its_threshold(shares, tau, root):
    tree = AttributionTree(shares, tau=tau, root=root)
    summed = shares.sum(1)
    for edge in tree.edges[0 if root == "none" else 1 :]:
        rows = summed[edge.layer] if root == "none" else summed[edge.layer, 1:]
        assert edge.share == pytest.approx(float(summed[edge.layer, edge.query, edge.key]))
        assert edge.score == pytest.approx(edge.share / float(rows.max()))
        assert (0 if edge.layer == len(shares) - 1 else tau) < edge.score <= 1


@settings(max_examples=100, deadline=None)
@given(attributions(), taus, taus)
def test_with_a_lower_threshold_no_token_leaves_the_tree_or_hangs_lower(shares, one, other):
    few, many = (AttributionTree(shares, tau=tau, root=0) for tau in (max(one, other), min(one, other)))
    low, high = ({edge.key: edge.layer for edge in tree.edges} for tree in (few, many))
    assert low.keys() <= high.keys()
    assert all(high[key] >= layer for key, layer in low.items())
    assert few.top == many.top
    assert len(few.edges) <= len(many.edges)


def test_with_a_lower_threshold_an_edge_may_give_way_to_a_higher_one():
    shares = torch.zeros(4, 1, 4, 4)
    shares[3, 0, 0, 1] = 1
    shares[2, 0, 1, 1], shares[2, 0, 1, 2] = 3, 1  # weak, but higher up
    shares[1, 0, 1, 2] = 1
    assert links(AttributionTree(shares, tau=0.4)) == [(3, 0, 1), (1, 1, 2)]
    assert links(AttributionTree(shares, tau=0.2)) == [(3, 0, 1), (2, 1, 2)]


@settings(max_examples=50, deadline=None)
@given(attributions())
def test_a_threshold_of_one_leaves_the_single_edge_from_the_root_to_the_token_that_gathers_most(shares):
    tree = AttributionTree(shares, tau=1.0, root=0)
    total = shares.sum((0, 1)).fill_diagonal_(0).sum(1)[1:]
    assert links(tree) == [(len(shares) - 1, 0, 1 + int(total.argmax()))]


@settings(max_examples=60, deadline=None)
@given(attributions(most_tokens=7), st.floats(0, 0.3), st.floats(0.05, 0.9), st.sampled_from([0, "none"]))
def test_a_penalty_leaves_the_part_with_the_largest_objective(shares, tau, penalty, root):
    whole = AttributionTree(shares, tau=tau, root=root).edges
    fixed, free = (whole[:0], whole) if root == "none" else (whole[:1], whole[1:])
    tree = AttributionTree(shares, tau=tau, root=root, penalty=penalty)
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
@given(attributions(), taus, taus, taus)
def test_with_a_higher_penalty_the_tree_is_a_part_of_what_it_was(shares, tau, one, other):
    small, large = (AttributionTree(shares, tau=tau, root=0, penalty=p) for p in (max(one, other), min(one, other)))
    assert set(small.edges) <= set(large.edges)


def test_a_costly_edge_stays_where_more_hangs_on_it_than_it_costs():
    shares = torch.zeros(3, 1, 6, 6)
    shares[2, 0, 0, 1] = 1
    shares[1, 0, 1, 1], shares[1, 0, 1, 2], shares[1, 0, 1, 3] = 10, 7, 5
    shares[0, 0, 1, 1], shares[0, 0, 2, 4], shares[0, 0, 3, 5] = 10, 5, 10
    assert links(AttributionTree(shares))[1:] == [(1, 1, 2), (1, 1, 3), (0, 2, 4), (0, 3, 5)]
    # At 0.6 the edge to 4 is not worth its price, the one to 3 is, by what hangs on it; at 0.8 only the root's is.
    assert links(AttributionTree(shares, penalty=0.6))[1:] == [(1, 1, 2), (1, 1, 3), (0, 3, 5)]
    assert links(AttributionTree(shares, penalty=0.8))[1:] == []


def worked(**options):
    """[CLS] good not bad [SEP] in three layers of two heads, the sums over heads written out."""
    shares = torch.zeros(3, 2, 5, 5)
    shares[2, :, 0, 3], shares[2, :, 0, 1] = 0.2, 0.3
    shares[1, :, 3, 2], shares[1, :, 3, 4], shares[1, 0, 1, 4] = 0.4, 0.1, 0.5
    shares[0, 0, 2, 1], shares[0, 1, 3, 1], shares[0, 0, 3, 4], shares[0, :, 0, 4] = 0.2, 0.1, 0.05, 9
    return AttributionTree(shares, ["[CLS]", "good", "not", "bad", "[SEP]"], **options)


def test_a_tree_worked_out_by_hand():
    tree = worked()
    assert (tree.root, tree.top, tree.nodes) == (0, 3, [0, 3, 2, 1])
    assert links(tree) == [(2, 0, 3), (1, 3, 2), (0, 2, 1)]
    np.testing.assert_allclose([edge.score for edge in tree.edges], [0.2 / 0.3, 1, 1], rtol=1e-6)
    np.testing.assert_allclose([edge.share for edge in tree.edges], [0.4, 0.8, 0.2], rtol=1e-6)
    assert links(worked(tau=0.2))[1:] == [(1, 3, 2), (1, 3, 4), (0, 2, 1)]
    assert worked(layers=[7, 9, 11]).edges[1].layer == 9
    assert repr(tree) == "AttributionTree([CLS] -> bad, 3 edges, 3 layers)"


def test_a_list_of_layers_one_head_or_a_batch_of_one_make_the_same_tree():
    shares = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree = AttributionTree(shares)
    for other in (list(shares), shares.sum(1, keepdim=True), shares[:, None], shares.clone().requires_grad_()):
        again = AttributionTree(other)
        assert links(again) == links(tree)


def test_the_root_is_what_the_classifier_reads():
    model, tokenizer = bert()
    assert AttributionTree(explain("a warm film", model, tokenizer, n_steps=2)).root == 0
    tokenizer = byte_level(wrapped=False, pad_token="<pad>")
    explanation = explain("a warm film", gpt2(tokenizer, pad_token_id=1), tokenizer, n_steps=2)
    tree = AttributionTree(explanation)
    assert tree.root == len(explanation.tokens) - 1
    assert (tree.edges[0].layer, tree.edges[0].query) == (2, tree.root)


def test_where_all_tokens_are_read_the_top_node_is_the_root_and_the_tree_grows_from_the_top_layer():
    shares = torch.zeros(2, 1, 3, 3)
    shares[1, 0, 1, 0], shares[1, 0, 1, 1], shares[0, 0, 0, 2] = 0.01, 1, 0.005
    tree = AttributionTree(shares, root="none")
    assert (tree.root, tree.top) == (None, 1)
    assert links(tree) == [(1, 1, 0), (0, 0, 2)]
    assert links(AttributionTree(shares, root="none", top_tau=0.1)) == []
    assert AttributionTree(shares, root="none", top_tau=0.1).nodes == [1]


def test_an_explanation_brings_its_tokens_and_layers():
    explanation = replace(made(8), layers=[2, 3, 5])
    tree = AttributionTree(explanation, tau=0.2)
    again = AttributionTree(explanation.attributions, explanation.tokens, tau=0.2, layers=[2, 3, 5])
    assert tree.edges == again.edges
    assert tree.tokens == explanation.tokens
    assert {edge.layer for edge in tree.edges} <= {2, 3, 5}


def test_edges_that_cross_the_sentences_of_a_pair():
    model, tokenizer = bert()
    explanation = explain("a warm film", model, tokenizer, text_pair="how watchable", n_steps=2)
    tree = AttributionTree(explanation, tau=0.0)
    first, second = explanation.tokens.index("[SEP]"), len(explanation.tokens) - 1
    assert tree.segments == [None, *[0] * (first - 1), None, *[1] * (second - first - 1), None]
    expected = [edge for edge in tree.edges if {0, 1} == {tree.segments[edge.query], tree.segments[edge.key]}]
    assert tree.crossing_edges == expected != []
    assert tree.to_text().count("crosses") == tree.to_dot().count("darkgreen") == len(expected)


def test_sentences_are_told_apart_by_two_separators_in_a_row_too():
    tokenizer = byte_level(cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    pairs = tk.processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    tokenizer.backend_tokenizer.post_processor = pairs
    explanation = explain("warm", roberta(tokenizer), tokenizer, text_pair="film", n_steps=1)
    found = AttributionTree(explanation).segments
    assert [sentence for sentence, _ in groupby(found)] == [None, 0, None, 1, None]
    assert [token for token, sentence in zip(explanation.tokens, found) if sentence is None] == [
        "<s>", "</s>", "</s>", "</s>"
    ]  # fmt: skip


def test_one_sentence_has_no_crossing_edges_and_sentences_that_cannot_be_told_apart_are_not_guessed():
    assert AttributionTree(made(6)).crossing_edges == []
    pair = replace(made(6), text_pair="and this")  # one run of words only
    for tree in (AttributionTree(pair), AttributionTree(made(6).attributions)):
        with pytest.raises(ValueError, match="give segments"):
            tree.crossing_edges  # noqa: B018
        assert "crosses" not in tree.to_text()
    told = AttributionTree(pair, tau=0.0, segments=[None, 0, 0, 1, 1, None])
    assert told.crossing_edges == [e for e in told.edges if {e.query, e.key} & {1, 2} and {e.query, e.key} & {3, 4}]


def test_networkx_gets_everything():
    tree = AttributionTree(made(12), tau=0.2)
    graph = tree.to_networkx()
    assert [graph.nodes[node]["token"] for node in graph] == [tree.tokens[node] for node in tree.nodes]
    assert {(q, k): tuple(data.values()) for q, k, data in graph.edges(data=True)} == {
        (e.query, e.key): (e.layer, e.score, e.share) for e in tree.edges
    }


def test_the_text_is_an_indented_tree_with_the_numbers_below_each_other():
    shares = torch.zeros(3, 1, 4, 4)
    shares[2, 0, 0, 2] = -0.5
    shares[1, 0, 2, 1] = shares[1, 0, 2, 3] = 0.25
    text = AttributionTree(shares, ["[CLS]", "fun", "ny\n", "fun"], layers=[3, 4, 5], root=0).to_text()
    assert text.splitlines() == [
        "╙── [CLS]",
        "    └── ny       layer 5  score -1.00  share -0.5000",
        "        ├── fun  layer 4  score 1.00  share +0.2500",
        "        └── fun  layer 4  score 1.00  share +0.2500",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot")
@pytest.mark.parametrize("token", ['say "hi"', "back\\slash", "<b>", "two\nlines", "->", "{}[];", "\\", "naïve 你好"])
def test_graphviz_gets_everything_whatever_the_tokens_hold(token):
    shares = made(9).attributions
    tree = AttributionTree(shares, [token] * 9, tau=0.2, segments=[0] * 5 + [1] * 4)
    [graph] = pydot.graph_from_dot_data(tree.to_dot())
    words = {node.get_name(): node.get_label() for node in graph.get_nodes() if node.get_name().isdecimal()}
    assert words.keys() == {str(node) for node in tree.nodes}
    assert {json.loads(word) for word in words.values()} == {token.replace("\n", " ")}  # quotes and \\ as in JSON
    found = {(int(edge.get_source()), int(edge.get_destination())): edge for edge in graph.get_edges()}
    assert found.keys() == {(edge.query, edge.key) for edge in tree.edges}
    for edge in tree.edges:
        drawn = found[edge.query, edge.key]
        assert drawn.get_label() == f'"layer {edge.layer}, {edge.score:.2f}"'
        assert float(drawn.get("penwidth")) == pytest.approx(edge_width(edge), abs=0.01)
        assert (drawn.get("color") is not None) == (edge in tree.crossing_edges)
        assert (drawn.get_style() == "dashed") == (edge.share <= 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -0.1}, "tau must be a number from 0 to 1"),
        ({"tau": float("nan")}, "tau must be"),
        ({"top_tau": 2}, "top_tau must be"),
        ({"penalty": "much"}, "penalty must be"),
        ({"root": 6}, "position of one of the 6 tokens"),
        ({"root": "[CLS]"}, "position of one of the 6 tokens"),
        ({"tokens": ["a"]}, "Got 1 tokens for attributions of 6"),
        ({"layers": [0, 1]}, "Got 2 layers for attributions of 3"),
        ({"layers": [2, 1, 0]}, "from the lowest to the top one"),
        ({"segments": [0]}, "Got 1 segments"),
        ({"attributions": torch.zeros(3, 2, 4, 6, 6)}, "take one text"),
        ({"attributions": torch.zeros(3, 2, 6, 5)}, "one text's attributions"),
        ({"attributions": torch.zeros(3, 2, 1, 1)}, "at least two tokens"),
        ({"attributions": torch.full((3, 2, 6, 6), torch.nan)}, "NaN"),
        ({"attributions": []}, "Layers must have one shape"),
        ({"attributions": made(6), "tokens": ["a"] * 6}, "tokens and layers of its own"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AttributionTree(**{"attributions": made(6).attributions, **change})


def test_what_holds_no_attributions_is_refused():
    for wrong in ([[1.0], [2.0]], "a text", 3, None, np.zeros((2, 1, 3, 3))):
        with pytest.raises(TypeError, match="a list with one tensor a layer"):
            AttributionTree(wrong)


def test_no_share_at_all_is_a_tree_of_its_root_and_one_token():
    tree = AttributionTree(torch.zeros(3, 2, 4, 4))
    assert links(tree) == [(2, 0, 1)]
    assert tree.edges[0].score == 0
