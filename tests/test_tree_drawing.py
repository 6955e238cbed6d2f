"""What is drawn of a tree is the tree, and can be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from made_explanations import drawn, made
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.transforms import Bbox

from captum_attattr.signed_map import AGAINST, FOR
from captum_attattr.tree import AttributionTree
from captum_attattr.tree_drawing import CROSSING, edge_width


def grown(count, tau=0.6, **options):
    """A tree of a made-up explanation of a classifier that reads the first token."""
    explanation = made(count, layers=6)
    explanation.attributions[-1, :, 1:] = 0
    return AttributionTree(explanation, tau=tau, **options)


def curves(axes):
    """Each edge's artist, by query and key."""
    return {
        tuple(map(int, patch.get_gid().split()[1:])): patch for patch in axes.patches if isinstance(patch, PathPatch)
    }


def words(axes, tree):
    """The texts at the heights of the tree, by token, and those of the sentence at the foot."""
    nodes = [text for text in axes.texts if text.get_bbox_patch() is not None]
    row = [text for text in axes.texts if text.get_bbox_patch() is None and text.get_text() in tree.tokens]
    return nodes, row


@pytest.fixture(scope="module", params=[8, 20, 40])
def picture(request):
    tree = grown(request.param, segments=[0] * (request.param // 2) + [1] * (request.param - request.param // 2))
    figure, axes = tree.plot()
    return tree, figure, axes, drawn(figure)


def test_every_edge_is_drawn_with_its_score_and_colour(picture):
    tree, _, axes, _ = picture
    found = curves(axes)
    assert found.keys() == {(edge.query, edge.key) for edge in tree.edges}
    assert len(tree.edges) > 3
    for edge in tree.edges:
        curve = found[edge.query, edge.key]
        assert curve.get_linewidth() == edge_width(edge)
        wanted = AGAINST if edge.share <= 0 else CROSSING if edge in tree.crossing_edges else FOR
        assert to_hex(curve.get_edgecolor()) == wanted
        assert (curve.get_linestyle() == "--") == (edge.share <= 0)
    weak, strong = sorted(tree.edges[1:], key=lambda edge: edge.score)[:: len(tree.edges) - 2]
    assert edge_width(weak) < edge_width(strong)


def test_an_edge_goes_down_one_layer_from_its_querys_column_to_its_key(picture):
    tree, _, axes, _ = picture
    nodes, _ = words(axes, tree)
    places = {node.get_position() for node in nodes}
    names = {text.get_text(): text.get_position()[1] for text in axes.texts if text.get_text().startswith("layer ")}
    columns = {}
    for edge in tree.edges:
        curve = curves(axes)[edge.query, edge.key].get_path().vertices
        (start, high), (end, low) = curve[0], curve[-1]
        assert (end, low) in places
        assert (low + high) / 2 == pytest.approx(names[f"layer {edge.layer}"])
        assert columns.setdefault(edge.query, start) == start
        assert columns.setdefault(edge.key, end) == end
    assert sorted(columns, key=columns.get) == sorted(columns)  # columns are in the order of the text
    heights = sorted(names.items(), key=lambda item: item[1])
    assert [name for name, _ in heights] == [f"layer {layer}" for layer in tree.layers]


def test_the_sentence_is_at_the_foot_and_what_is_in_the_tree_is_black(picture):
    tree, _, axes, _ = picture
    nodes, row = words(axes, tree)
    assert [text.get_text() for text in sorted(row, key=lambda text: text.get_position()[0])] == tree.tokens
    assert len({text.get_position()[1] for text in row}) == 1
    assert len(nodes) == len(tree.nodes)
    black = [text.get_text() for text in row if text.get_color() == "black"]
    assert black == [tree.tokens[node] for node in sorted(tree.nodes)]


def test_no_two_labels_overlap_and_all_are_in_the_picture(picture):
    _, figure, axes, renderer = picture
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    for one, other in combinations(boxes, 2):
        assert Bbox.intersection(one, other) is None
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_letters_are_large_enough_to_read(picture):
    tree, figure, axes, _ = picture
    nodes, row = words(axes, tree)
    assert {text.get_fontsize() for text in nodes + row} == {9.0}
    assert max(figure.get_size_inches()) < 16


def test_of_a_long_text_only_the_tree_is_drawn_and_that_is_said():
    tree = grown(128, tau=0.85)
    _, axes = tree.plot()
    nodes, row = words(axes, tree)
    assert row == []
    assert [text.get_text() for text in sorted(nodes, key=lambda text: text.get_position()[0])] == [
        tree.tokens[node] for node in sorted(tree.nodes)
    ]
    left_out = 128 - len(tree.nodes)
    assert any(f"{left_out} tokens that are not in the tree are left out" in text.get_text() for text in axes.texts)


def test_a_line_stands_between_the_sentences_of_a_pair():
    shares = made(9).attributions
    segments = [None, 0, 0, 0, None, 1, 1, 1, None]
    tree = AttributionTree(shares, list("abcdefghi"), segments=segments)
    _, axes = tree.plot()
    [line] = [line for line in axes.lines if line.get_linestyle() == ":"]
    _, row = words(axes, tree)
    column = {text.get_text(): text.get_position()[0] for text in row}
    assert column["e"] < line.get_xdata()[0] < column["f"]
    _, alone = AttributionTree(shares, list("abcdefghi")).plot()
    assert not [line for line in alone.lines if line.get_linestyle() == ":"]


def test_the_title_says_what_is_there_to_see():
    shares = torch.zeros(2, 1, 3, 3)
    shares[1, 0, 0, 1], shares[0, 0, 1, 2] = -1, 1
    _, axes = AttributionTree(shares, ["[CLS]", "a", "b"], root=0, segments=[None, 0, 1]).plot()
    titles = [text.get_text() for text in axes.texts]
    start = "What flows to [CLS]: wider edges have larger scores, green ones cross the sentences"
    assert f"{start}, the dashed one is not for the output" in titles
    _, axes = grown(8).plot(title="mine")
    assert "mine" in [text.get_text() for text in axes.texts]


def test_a_tree_without_edges_is_a_word():
    tree = AttributionTree(torch.zeros(2, 1, 3, 3), ["a", "b", "c"], root="none")
    figure, axes = tree.plot()
    drawn(figure)
    assert len(words(axes, tree)[0]) == 1


@pytest.mark.parametrize("token", ["$x^2$", "\\frac", "$", "\n", "", "你好"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_tokens_are_drawn_as_they_are(token):
    figure, axes = AttributionTree(made(5).attributions, [token] * 5).plot()
    drawn(figure)
    assert [text.get_text() for text in axes.texts].count(token) > 5


def test_it_draws_into_given_axes_and_keeps_the_figures_size(recwarn):
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    given, axes = grown(20).plot(plt_fig_axis=(figure, right))
    assert (given, axes) == (figure, right)
    renderer = drawn(figure)
    assert tuple(figure.get_size_inches()) == (9, 4)
    frame = right.get_window_extent(renderer)
    for text in right.texts:
        box = text.get_window_extent(renderer)
        assert frame.x0 - 5 <= box.x0
        assert box.x1 <= frame.x1 + 5
    assert not left.texts
    assert not recwarn.list


def test_it_needs_no_display_and_leaves_pyplot_alone(monkeypatch, tmp_path):
    for name in ("MPLBACKEND", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("figure", "switch_backend", "show"):
        monkeypatch.setattr(plt, name, lambda *_, **__: pytest.fail("pyplot was asked"))
    figure, _ = grown(8).plot()
    figure.savefig(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")


def test_with_pyplot_the_figure_is_pyplots_and_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    figure, _ = grown(8).plot(use_pyplot=True)
    assert shown == [[figure.number]]
    plt.close(figure)


def test_widths_grow_with_the_score_up_to_one():
    edge = grown(8).edges[0]
    widths = [edge_width(edge._replace(score=score)) for score in (-0.5, 0, 0.5, 1, 3)]
    np.testing.assert_allclose(widths, [1, 1, 2.5, 4, 4])


def test_layers_have_the_models_numbers():
    explanation = replace(made(8), layers=[3, 7, 8])
    _, axes = AttributionTree(explanation).plot()
    names = [text.get_text() for text in axes.texts if text.get_text().startswith("layer ")]
    assert names == ["layer 3", "layer 7", "layer 8"]
