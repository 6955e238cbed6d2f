"""The picture of a tree: it shows the tree, and is readable."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from made_explanations import drawn, made
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.transforms import Bbox

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.attribution_tree import AttributionTree
from captum_attattr.tree.growth import Edge
from captum_attattr.tree.layout import numbers_of, widths


def grown(count, least=2.5, **options):
    """A tree of a made-up explanation of a classifier that reads the first token, with looks of so much."""
    explanation = made(count, layers=6, settings={"output": "probability", "path": "joint"})
    explanation.attributions[-1, :, 1:] = 0
    explanation.attributions[-1, :, 0] *= 2
    total = float(explanation.token_scores().abs().sum())
    return AttributionTree(explanation, tau=least / total, **options)


def curves(axes):
    """Each edge's artist, by query and key."""
    return {
        tuple(map(int, patch.get_gid().split()[1:])): patch for patch in axes.patches if isinstance(patch, PathPatch)
    }


def words(axes, tree):
    """The texts at the heights of the tree, those of the sentence at the foot, and the numbers."""
    numbers = [text for text in axes.texts if re.fullmatch(r"[+\N{MINUS SIGN}]\d+\.\d+", text.get_text())]
    nodes = [text for text in axes.texts if text.get_bbox_patch() is not None and text not in numbers]
    row = [text for text in axes.texts if text.get_bbox_patch() is None and text.get_text() in tree.tokens]
    return nodes, row, numbers


@pytest.fixture(scope="module", params=[8, 20, 40])
def picture(request):
    tree = grown(request.param, segments=[0] * (request.param // 2) + [1] * (request.param - request.param // 2))
    figure, axes = tree.plot()
    return tree, figure, axes, drawn(figure)


def test_every_edge_is_drawn_as_wide_as_its_attribution_is_large_in_the_colour_of_its_sign(picture):
    tree, _, axes, _ = picture
    found = curves(axes)
    assert found.keys() == {(edge.query, edge.key) for edge in tree.edges}
    assert len(tree.edges) > 3
    assert len({edge.attribution > 0 for edge in tree.edges}) == 2
    unit = found[tree.edges[0].query, tree.edges[0].key].get_linewidth() / abs(tree.edges[0].attribution)
    for edge in tree.edges:
        curve = found[edge.query, edge.key]
        assert curve.get_linewidth() == pytest.approx(unit * abs(edge.attribution))
        assert to_hex(curve.get_edgecolor()) == (FOR if edge.attribution > 0 else AGAINST)
        assert (curve.get_linestyle() != "-") == (edge in tree.crossing_edges)


def test_every_edge_has_its_attribution_at_its_key(picture):
    tree, _, axes, _ = picture
    nodes, _, numbers = words(axes, tree)
    assert len(numbers) == len(tree.edges)
    places = {node.get_position(): node for node in nodes}
    for edge in tree.edges:
        end = places[tuple(curves(axes)[edge.query, edge.key].get_path().vertices[-1])]
        nearest = min(numbers, key=lambda number: np.hypot(*np.subtract(number.get_position(), end.get_position())))
        assert float(nearest.get_text().replace("\N{MINUS SIGN}", "-")) == pytest.approx(edge.attribution, abs=0.006)
        assert nearest.get_color() == (FOR if edge.attribution > 0 else AGAINST)


def test_an_edge_goes_down_one_layer_from_its_querys_column_to_its_key(picture):
    tree, _, axes, _ = picture
    nodes, *_ = words(axes, tree)
    columns = {text.get_text(): text.get_position()[0] for text in nodes}
    assert len(columns) <= len(nodes)
    places = {node.get_position() for node in nodes}
    names = {text.get_text(): text.get_position()[1] for text in axes.texts if text.get_text().startswith("layer ")}
    ends = {tree.nodes[0]: min(x for x, _ in places)}  # the first token is the root
    for edge in tree.edges:
        curve = curves(axes)[edge.query, edge.key].get_path().vertices
        (_, high), (end, low) = curve[0], curve[-1]
        assert (end, low) in places
        assert (low + high) / 2 == pytest.approx(names[f"layer {edge.layer}"])
        assert ends.setdefault(edge.key, end) == end
    assert sorted(ends, key=ends.get) == sorted(ends)  # columns are in the order of the text
    for edge in tree.edges:  # side by side, 30 points in all
        assert abs(curves(axes)[edge.query, edge.key].get_path().vertices[0][0] - ends[edge.query]) <= 15 / 72


def test_edges_of_one_token_in_one_layer_begin_side_by_side(picture):
    tree, _, axes, _ = picture
    found = curves(axes)
    bundle = sorted((edge for edge in tree.edges if edge[:2] == tree.edges[0][:2]), key=lambda edge: edge.key)
    assert len(bundle) > 1
    starts = [found[edge.query, edge.key].get_path().vertices[0][0] for edge in bundle]
    points = [found[edge.query, edge.key].get_linewidth() for edge in bundle]
    gaps = [(one + other) / 2 / 72 for one, other in pairwise(points)]
    np.testing.assert_allclose(np.diff(starts), gaps, rtol=1e-9)


def test_layers_without_an_edge_share_a_band():
    attributions = torch.zeros(7, 1, 4, 4)
    attributions[5, 0, 0, 1], attributions[2, 0, 1, 2] = 1, -1
    _, axes = AttributionTree(attributions, root=0, layers=[1, 2, 3, 4, 5, 6, 9]).plot()
    names = [text.get_text() for text in axes.texts if text.get_text().startswith("layer")]
    assert names == ["layers 1\N{EN DASH}2", "layer 3", "layers 4\N{EN DASH}5", "layer 6", "layer 9"]


def test_the_sentence_is_at_the_foot_and_what_is_in_the_tree_is_black(picture):
    tree, _, axes, _ = picture
    nodes, row, _ = words(axes, tree)
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
    nodes, row, _ = words(axes, tree)
    assert {text.get_fontsize() for text in nodes + row} == {9.0}
    assert max(figure.get_size_inches()) < 20


def test_of_a_long_text_only_the_tree_is_drawn_and_that_is_said():
    tree = grown(128, least=8.0)
    _, axes = tree.plot()
    nodes, row, _ = words(axes, tree)
    assert row == []
    assert [text.get_text() for text in sorted(nodes, key=lambda text: text.get_position()[0])] == [
        tree.tokens[node] for node in sorted(tree.nodes)
    ]
    left_out = 128 - len(tree.nodes)
    assert left_out > 60
    assert any(f"{left_out} tokens that are not in the tree are left out" in text.get_text() for text in axes.texts)


def test_a_line_stands_between_the_sentences_of_a_pair():
    attributions = made(9).attributions
    segments = [None, 0, 0, 0, None, 1, 1, 1, None]
    tree = AttributionTree(attributions, list("abcdefghi"), segments=segments)
    _, axes = tree.plot()
    [line] = [line for line in axes.lines if line.get_linestyle() == ":"]
    _, row, _ = words(axes, tree)
    column = {text.get_text(): text.get_position()[0] for text in row}
    assert column["e"] < line.get_xdata()[0] < column["f"]
    _, alone = AttributionTree(attributions, list("abcdefghi")).plot()
    assert not [line for line in alone.lines if line.get_linestyle() == ":"]


def test_the_legend_names_what_is_there_to_see():
    attributions = torch.zeros(2, 1, 3, 3)
    attributions[1, 0, 0, 1], attributions[0, 0, 1, 2] = -1, 1
    _, axes = AttributionTree(attributions, ["[CLS]", "a", "b"], root=0, segments=[None, 0, 1]).plot()
    said = [text.get_text() for text in axes.texts]
    for line in (
        "What flows to [CLS]: attributions for the output", "raises the output", "lowers the output",
        "crosses the sentences",
        "widths are attributions; looks of less than 2% of the total, 2, are left out",
    ):  # fmt: skip
        assert line in said
    attributions[1, 0, 0, 1] = 1
    _, axes = AttributionTree(attributions, ["[CLS]", "a", "b"], root=0, tau=0.005).plot(title="mine")
    said = [text.get_text() for text in axes.texts]
    assert "mine" in said
    assert "What flows to [CLS]: attributions for the output" not in said
    assert not {"lowers the output", "crosses the sentences"} & set(said)
    assert "widths are attributions; looks of less than 0.5% of the total, 2, are left out" in said
    _, axes = AttributionTree(attributions, ["[CLS]", "a", "b"], root=0, scale="layer").plot()
    widths_are = "widths are attributions divided by the largest one of their layer: compare within a layer only"
    assert widths_are in [text.get_text() for text in axes.texts]


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


def test_widths_are_proportional_to_scores_and_no_more_than_a_bundle():
    edges = [Edge(1, 0, key, score, 0.0) for key, score in enumerate((0.5, -0.25, 0.0), 1)]
    np.testing.assert_allclose(widths(edges), [12, 6, 0.3])
    many = [Edge(1, 0, key, 0.5, 0.0) for key in range(1, 11)]
    np.testing.assert_allclose(widths(many), [3] * 10)
    assert widths([]) == []


@pytest.mark.parametrize(
    ("attributions", "wanted"),
    [
        ([1.5, -0.25], ["+1.50", "-0.25"]), ([0.3544, 0.0170], ["+0.354", "+0.017"]), ([3.0], ["+3.00"]),
        ([1e-9, -2e-4], ["+1.0e-09", "-2.0e-04"]), ([0.0, 0.5], ["+0.00", "+0.50"]),
    ],
)  # fmt: skip
def test_numbers_have_the_decimals_that_the_smallest_needs(attributions, wanted):
    assert numbers_of([Edge(1, 0, key, 0.0, attribution) for key, attribution in enumerate(attributions, 1)]) == wanted


def test_layers_have_the_models_numbers():
    attributions = torch.zeros(3, 1, 4, 4)
    attributions[2, 0, 0, 1], attributions[1, 0, 1, 2], attributions[0, 0, 2, 3] = 3, 2, 1
    _, axes = AttributionTree(attributions, root=0, layers=[3, 7, 8]).plot()
    names = [text.get_text() for text in axes.texts if text.get_text().startswith("layer ")]
    assert names == ["layer 3", "layer 7", "layer 8"]
