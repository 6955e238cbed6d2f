"""The attribution tree is on one scale, never contradicts the map, and is handed on without loss."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from itertools import groupby

import numpy as np
import pydot
import pytest
import tokenizers as tk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_attributions import assert_hangs_together, links, random_attributions, taus
from made_explanations import made
from tiny_classifiers import bert, byte_level, gpt2, roberta

from captum_attattr import explain, token_scores
from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.attribution_tree import AttributionTree
from captum_attattr.tree.layout import widths

roots = st.sampled_from([0, -1, "none"])
JOINT = {"output": "probability", "path": "joint"}


def in_words(attributions, tau, root):
    """The class's own words in loops over numbers: the total, the two edges that are always there, largest looks first.

    Returns edges (layer, query, key), and how many of them are there whatever they weigh.
    """
    a = np.asarray(attributions).sum(1)
    depth, n, _ = a.shape
    total = sum(abs(sum(a[layer][i][j] for layer in range(depth) for i in range(n))) for j in range(n))
    if root == "none":
        most = [sum(abs(a[layer][i][j]) for layer in range(depth) for j in range(n) if j != i) for i in range(n)]
        root = most.index(max(most))
    others = [j for j in range(n) if j != root % n]
    root %= n
    height, edges = {root: depth}, []
    looks = {(layer, root, j): abs(a[layer][root][j]) for layer in range(depth) for j in others if a[layer][root][j]}
    if looks:
        edges.append(max(looks, key=looks.get))
        over_layers = {j: abs(sum(a[layer][root][j] for layer in range(depth))) for j in others}
        most = max(over_layers, key=over_layers.get)
        if most != edges[0][2] and over_layers[most]:
            edges.append(max(((layer, root, most) for layer in range(depth)), key=lambda look: looks.get(look, 0)))
    height |= {key: layer for layer, _, key in edges}
    always = len(edges)
    while True:
        looks = {
            (layer, i, j): abs(a[layer][i][j])
            for i in height for layer in range(height[i]) for j in range(n)
            if j not in height and abs(a[layer][i][j]) >= tau * total and a[layer][i][j]
        }  # fmt: skip
        if not looks:
            return edges, always
        edges.append(max(looks, key=looks.get))
        height[edges[-1][2]] = edges[-1][0]


@settings(max_examples=100, deadline=None)
@given(random_attributions(most_tokens=7), st.floats(0, 0.3), roots)
def test_it_is_grown_by_the_largest_looks_first(attributions, tau, root):
    assert links(AttributionTree(attributions, tau=tau, root=root)) == in_words(attributions.tolist(), tau, root)[0]


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, roots, st.sampled_from([0.0, 0.3]))
def test_every_token_but_the_root_hangs_on_the_tree_at_a_lower_layer_than_its_parent(attributions, tau, root, penalty):
    tree = AttributionTree(attributions, tau=tau, root=root, penalty=penalty)
    assert_hangs_together(tree, len(attributions))


@settings(max_examples=100, deadline=None)
@given(random_attributions(), taus, st.sampled_from([0, -1]), st.sampled_from([0.0, 0.3]))
def test_the_strongest_look_of_the_root_and_the_strongest_of_its_row_in_the_map_are_always_in_it(
    attributions, tau, root, penalty
):
    tree = AttributionTree(attributions, tau=tau, root=root, penalty=penalty)
    row = attributions.sum(1)[:, tree.root].clone()
    row[:, tree.root] = 0
    taken = {(edge.layer, edge.key) for edge in tree.edges if edge.query == tree.root}
    assert bool(row.any()) == bool(tree.edges)
    if tree.edges:
        layer, key = divmod(int(row.abs().argmax()), len(row[0]))
        assert (tree.edges[0].layer, tree.edges[0].query, tree.edges[0].key) == (layer, tree.root, key)
        assert tree.top == key
        in_map = row.sum(0).abs()
        assert int(in_map.argmax()) in {key for _, key in taken} or not in_map.any()
        assert (layer, key) in taken


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, roots)
def test_scores_are_parts_of_the_total_and_none_is_below_the_threshold(attributions, tau, root):
    tree = AttributionTree(attributions, tau=tau, root=root)
    assert tree.total == pytest.approx(float(token_scores(attributions).abs().sum()))
    always = in_words(attributions.tolist(), tau, root)[1]
    for place, edge in enumerate(tree.edges):
        assert edge.attribution == pytest.approx(float(attributions.sum(1)[edge.layer, edge.query, edge.key]))
        assert edge.score * tree.total == pytest.approx(edge.attribution)
        assert edge.share == edge.attribution  # the former name
        assert place < always or abs(edge.score) >= tau * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(random_attributions(), st.floats(0, 0.3), roots, st.integers(-40, 40))
def test_in_another_unit_and_for_the_other_side_it_is_the_same_tree(attributions, tau, root, power):
    tree = AttributionTree(attributions, tau=tau, root=root)
    for factor in (2.0**power, -(2.0**power)):  # exact in floating point
        other = AttributionTree(attributions * factor, tau=tau, root=root)
        assert links(other) == links(tree)
        assert [edge.attribution for edge in other.edges] == [edge.attribution * factor for edge in tree.edges]
        assert [edge.score for edge in other.edges] == [edge.score * factor / abs(factor) for edge in tree.edges]


@settings(max_examples=60, deadline=None)
@given(random_attributions(), taus, taus, roots)
def test_with_a_higher_threshold_it_is_the_beginning_of_what_it_was(attributions, one, other, root):
    few, many = (AttributionTree(attributions, tau=tau, root=root) for tau in (max(one, other), min(one, other)))
    assert few.edges == many.edges[: len(few.edges)]


@settings(max_examples=60, deadline=None)
@given(random_attributions(), st.floats(0, 0.1), st.floats(0, 0.5), st.floats(0, 0.5), roots)
def test_with_a_higher_penalty_it_is_a_part_of_what_it_was(attributions, tau, one, other, root):
    small, large = (
        AttributionTree(attributions, tau=tau, root=root, penalty=p) for p in (max(one, other), min(one, other))
    )
    assert set(small.edges) <= set(large.edges)
    assert large.objective >= sum(abs(edge.score) - large.penalty for edge in small.edges) - 1e-12


def test_a_sentence_whose_strongest_look_the_paper_misses():
    """The root's edge was [CLS] -> interesting with +0.0005, and [CLS] -> poor, the largest of the map, was missing."""
    explanation = explain("The plot was interesting but the execution was poor.", path="joint")
    tree = AttributionTree(explanation)
    pairs = explanation.pair_scores()
    pairs.fill_diagonal_(0)
    strongest = int(pairs.abs().argmax())
    assert divmod(strongest, len(pairs)) == (0, explanation.tokens.index("poor"))
    assert (tree.edges[0].query, tree.edges[0].key) == divmod(strongest, len(pairs))
    assert (tree.edges[0].layer, tree.tokens[tree.root]) == (5, "[CLS]")
    assert tree.edges[0].attribution == max(edge.attribution for edge in tree.edges) > 0.3
    assert "interesting" not in [tree.tokens[node] for node in tree.nodes]
    assert min(abs(edge.attribution) for edge in tree.edges) >= 0.02 * tree.total
    drawn = widths(tree.edges)
    np.testing.assert_allclose(
        [width / drawn[0] for width in drawn],
        [abs(edge.attribution / tree.edges[0].attribution) for edge in tree.edges],
        rtol=1e-9,
    )
    # Nothing speaks against the output here to speak of: the total is what all attention together is worth, and a bit.
    assert tree.total == pytest.approx(float(explanation.attributions.sum()), rel=0.06)


def worked(**options):
    """[CLS] it not bad [SEP] in three layers of two heads, the sums over heads written out."""
    attributions = torch.zeros(3, 2, 5, 5)
    attributions[2, :, 0, 3], attributions[2, :, 0, 1] = 0.2, -0.1
    attributions[1, :, 3, 2], attributions[1, :, 1, 2], attributions[1, 0, 0, 4] = 0.05, 0.15, 0.01
    attributions[0, 0, 1, 3], attributions[0, 1, 2, 4], attributions[0, :, 4, 0] = 0.9, -0.02, 0.01
    return AttributionTree(attributions, ["[CLS]", "it", "not", "bad", "[SEP]"], **options)


def test_a_tree_worked_out_by_hand():
    tree = worked(root=0)
    assert (tree.root, tree.top, tree.nodes) == (0, 3, [0, 3, 1, 2])
    # The largest attribution, it -> bad in layer 0, comes too late: [CLS] looks at bad itself.
    assert links(tree) == [(2, 0, 3), (2, 0, 1), (1, 1, 2)]
    np.testing.assert_allclose([edge.attribution for edge in tree.edges], [0.4, -0.2, 0.3], rtol=1e-6)
    assert tree.total == pytest.approx(0.02 + 0.2 + 0.4 + 1.3 + 0.01)
    np.testing.assert_allclose([edge.score * tree.total for edge in tree.edges], [0.4, -0.2, 0.3], rtol=1e-6)
    assert links(worked(root=0, tau=0.01))[3:] == [(0, 2, 4)]
    assert links(worked(root=0, tau=0.12)) == [(2, 0, 3)]
    # At this price -0.2 alone, a score of 0.1, is not worth it; with what hangs on it, it is.
    assert links(worked(root=0, penalty=0.12)) == [
        (2, 0, 3),
        (2, 0, 1),
        (1, 1, 2),
    ]
    assert links(worked(root=0, penalty=0.14)) == [(2, 0, 3)]
    assert worked(layers=[7, 9, 11]).edges[2].layer == 9
    assert repr(tree) == "AttributionTree([CLS] -> bad, 3 edges, 3 layers)"


def test_of_what_the_root_takes_most_over_all_layers_it_takes_in_the_layer_where_it_takes_most():
    attributions = torch.zeros(3, 1, 4, 4)
    attributions[2, 0, 0, 1] = 0.5
    attributions[1, 0, 1, 2] = 0.9  # would take 2 before the root does
    attributions[2, 0, 0, 2], attributions[1, 0, 0, 2], attributions[0, 0, 0, 2] = 0.2, 0.3, 0.2
    assert links(AttributionTree(attributions, root=0)) == [(2, 0, 1), (1, 0, 2)]


def test_no_attribution_at_all_is_a_tree_of_its_root():
    tree = AttributionTree(torch.zeros(3, 2, 4, 4))
    assert (tree.edges, tree.nodes, tree.top, tree.total) == ([], [0], 0, 0)


def test_attributions_that_cancel_out_have_a_total_of_zero_and_a_tree():
    attributions = torch.zeros(2, 1, 3, 3)
    attributions[1, 0, 0, 1], attributions[0, 0, 2, 1] = 0.5, -0.5
    tree = AttributionTree(attributions)
    assert (tree.total, links(tree)) == (0, [(1, 0, 1)])
    assert (tree.edges[0].score, tree.edges[0].attribution) == (0, 0.5)


def test_layers_of_a_layerwise_explanation_are_on_one_scale_too_and_that_is_said():
    layerwise = made(6)
    with pytest.warns(UserWarning, match=r"path='joint'.*scale='layer'"):
        tree = AttributionTree(layerwise)
    assert tree.edges == AttributionTree(layerwise.attributions).edges
    note = "layerwise attributions, which do not add up over layers"
    assert tree.to_text().splitlines()[-1] == note
    assert any(note in text.get_text() for text in tree.plot()[1].texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = [AttributionTree(replace(layerwise, settings=JOINT)), AttributionTree(layerwise, scale="layer")]
    for tree in quiet:
        assert note not in tree.to_text()
        assert not any(note in text.get_text() for text in tree.plot()[1].texts)


def test_the_picture_says_what_the_attributions_are_for():
    explanation = replace(made(6), settings=JOINT)
    titles = [text.get_text() for text in AttributionTree(explanation).plot()[1].texts]
    assert "What flows to [CLS]: attributions for the probability of 'good'" in titles
    numbers = replace(explanation, settings={**JOINT, "output": "given"})
    titles = [text.get_text() for text in AttributionTree(numbers).plot()[1].texts]
    assert "What flows to [CLS]: attributions for the output of 'good'" in titles
    alone = replace(numbers, labels=["LABEL_0"], probabilities=torch.tensor([0.5]), target=0)
    titles = [text.get_text() for text in AttributionTree(alone).plot()[1].texts]
    assert "What flows to [CLS]: attributions for the output" in titles


def test_a_list_of_layers_one_head_or_a_batch_of_one_make_the_same_tree():
    attributions = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree = AttributionTree(attributions)
    for other in (
        list(attributions),
        attributions.sum(1, keepdim=True),
        attributions[:, None],
        attributions.clone().requires_grad_(),
    ):
        again = AttributionTree(other)
        assert links(again) == links(tree)


def test_the_root_is_what_the_classifier_reads():
    model, tokenizer = bert()
    assert AttributionTree(explain("a warm film", model, tokenizer, n_steps=2, path="joint")).root == 0
    tokenizer = byte_level(wrapped=False, pad_token="<pad>")
    explanation = explain("a warm film", gpt2(tokenizer, pad_token_id=1), tokenizer, n_steps=2, path="joint")
    tree = AttributionTree(explanation)
    assert tree.root == len(explanation.tokens) - 1
    assert tree.edges[0].query == tree.root
    below = AttributionTree(explanation.attributions[:-1])  # the top layer, which would tell, is not there
    assert below.root == len(explanation.tokens) - 1
    assert below.edges[0].query == below.root


def test_an_explanation_brings_its_tokens_and_layers():
    explanation = replace(made(8), layers=[2, 3, 5], settings=JOINT)
    tree = AttributionTree(explanation, tau=0.01)
    again = AttributionTree(explanation.attributions, explanation.tokens, tau=0.01, layers=[2, 3, 5])
    assert tree.edges == again.edges
    assert tree.tokens == explanation.tokens
    assert {edge.layer for edge in tree.edges} <= {2, 3, 5}


def test_edges_that_cross_the_sentences_of_a_pair():
    model, tokenizer = bert()
    explanation = explain("a warm film", model, tokenizer, text_pair="how watchable", n_steps=2, path="joint")
    tree = AttributionTree(explanation, scale="layer", tau=0.0)
    tokens = explanation.words.tokens
    first, second = tokens.index("[SEP]"), len(tokens) - 1
    assert tree.segments == [None, *[0] * (first - 1), None, *[1] * (second - first - 1), None]
    expected = [edge for edge in tree.edges if {0, 1} == {tree.segments[edge.query], tree.segments[edge.key]}]
    assert tree.crossing_edges == expected != []
    assert tree.to_text().count("crosses") == tree.to_dot().count("dashed") == len(expected)


def test_sentences_are_told_apart_by_two_separators_in_a_row_too():
    tokenizer = byte_level(cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    pairs = tk.processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    tokenizer.backend_tokenizer.post_processor = pairs
    explanation = explain("warm", roberta(tokenizer), tokenizer, text_pair="film", n_steps=1, path="joint")
    found = AttributionTree(explanation).segments
    assert [sentence for sentence, _ in groupby(found)] == [None, 0, None, 1, None]
    assert [token for token, sentence in zip(explanation.words.tokens, found) if sentence is None] == [
        "<s>", "</s>", "</s>", "</s>"
    ]  # fmt: skip


def test_one_sentence_has_no_crossing_edges_and_sentences_that_cannot_be_told_apart_are_not_guessed():
    alone = made(6, settings=JOINT)
    assert AttributionTree(alone).crossing_edges == []
    pair = replace(alone, text_pair="and this")  # one run of words only
    for tree in (AttributionTree(pair), AttributionTree(made(6).attributions)):
        with pytest.raises(ValueError, match="give segments"):
            tree.crossing_edges  # noqa: B018
        assert "crosses" not in tree.to_text()
    told = AttributionTree(pair, tau=0.0, segments=[None, 0, 0, 1, 1, None])
    assert told.crossing_edges == [e for e in told.edges if {e.query, e.key} & {1, 2} and {e.query, e.key} & {3, 4}]


def test_networkx_gets_everything():
    tree = AttributionTree(made(12, settings=JOINT), tau=0.01)
    graph = tree.to_networkx()
    assert [graph.nodes[node]["token"] for node in graph] == [tree.tokens[node] for node in tree.nodes]
    assert {(q, k): tuple(data.values()) for q, k, data in graph.edges(data=True)} == {
        (e.query, e.key): (e.layer, e.score, e.attribution) for e in tree.edges
    }


def test_the_text_is_an_indented_tree_with_the_numbers_below_each_other():
    attributions = torch.zeros(3, 1, 4, 4)
    attributions[2, 0, 0, 2] = -0.5
    attributions[1, 0, 2, 1], attributions[1, 0, 2, 3] = 0.25, 0.015
    text = AttributionTree(attributions, ["[CLS]", "fun", "ny\n", "fun"], layers=[3, 4, 5], root=0, tau=0.01).to_text()
    assert text.splitlines() == [
        "╙── [CLS]",
        "    └── ny       layer 5  -0.500   65% of the total",
        "        ├── fun  layer 4  +0.250   33% of the total",
        "        └── fun  layer 4  +0.015    2% of the total",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot")
@pytest.mark.parametrize("token", ['say "hi"', "back\\slash", "<b>", "two\nlines", "->", "{}[];", "\\", "naïve 你好"])
def test_graphviz_gets_everything_whatever_the_tokens_hold(token):
    attributions = made(9).attributions
    tree = AttributionTree(attributions, [token] * 9, tau=0.01, segments=[0] * 5 + [1] * 4)
    [graph] = pydot.graph_from_dot_data(tree.to_dot())
    words = {node.get_name(): node.get_label() for node in graph.get_nodes() if node.get_name().isdecimal()}
    assert words.keys() == {str(node) for node in tree.nodes}
    assert {json.loads(word) for word in words.values()} == {token.replace("\n", " ")}  # quotes and \\ as in JSON
    found = {(int(edge.get_source()), int(edge.get_destination())): edge for edge in graph.get_edges()}
    assert found.keys() == {(edge.query, edge.key) for edge in tree.edges}
    for edge, width in zip(tree.edges, widths(tree.edges)):
        drawn = found[edge.query, edge.key]
        layer, attribution = drawn.get_label().strip('"').removeprefix("layer ").split(", ")
        assert (int(layer), float(attribution)) == (edge.layer, pytest.approx(edge.attribution, abs=0.006))
        assert float(drawn.get("penwidth")) == pytest.approx(width, abs=0.01)
        assert drawn.get("color") == f'"{FOR if edge.attribution > 0 else AGAINST}"'
        assert (drawn.get_style() == "dashed") == (edge in tree.crossing_edges)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -0.1}, "tau must be a number from 0 to 1"),
        ({"tau": float("nan")}, "tau must be"),
        ({"top_tau": 2, "scale": "layer"}, "top_tau must be"),
        ({"top_tau": 0.1}, "top_tau is for scale='layer'"),
        ({"scale": "paper"}, "Unknown scale 'paper'. Choose 'total' or 'layer'"),
        ({"penalty": "much"}, "penalty must be"),
        ({"root": 6}, "position of one of the 6 tokens"),
        ({"root": "[CLS]"}, "position of one of the 6 tokens"),
        ({"tokens": ["a"]}, "Got 1 tokens for 6 rows of attributions"),
        ({"layers": [0, 1]}, "Got 2 layers for 3 layers of attributions"),
        ({"layers": [2, 1, 0]}, "from the lowest to the top one"),
        ({"segments": [0]}, "Got 1 segments"),
        ({"attributions": torch.zeros(3, 2, 4, 6, 6)}, "select one text"),
        ({"attributions": torch.zeros(3, 2, 6, 5)}, "one text's attributions"),
        ({"attributions": torch.zeros(3, 2, 1, 1)}, "at least two tokens"),
        ({"attributions": torch.full((3, 2, 6, 6), torch.nan)}, "NaN"),
        ({"attributions": []}, "Layers must have the same shape"),
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
