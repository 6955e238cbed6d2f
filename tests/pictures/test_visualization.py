"""The picture of an explanation: it shows the explanation, is readable at every length, and needs no display."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_explanations import drawn, labels, made
from matplotlib.figure import Figure
from tiny_classifiers import bert

from captum_attattr import explain, visualize_explanation


@pytest.fixture(scope="module", params=[3, 5, 16, 60])
def picture(request):
    """An explanation and its axes: heads, strongest pairs, all pairs."""
    explanation = replace(made(request.param), layers=[1, 4, 7])
    return explanation, visualize_explanation(explanation)[1]


def test_the_maps_are_the_scores(picture):
    explanation, (heads, _, pairs) = picture
    np.testing.assert_array_equal(heads.images[0].get_array(), explanation.head_scores().numpy())
    np.testing.assert_array_equal(pairs.images[0].get_array(), explanation.pair_scores().numpy())


def test_white_is_zero_and_the_strongest_colour_the_largest_score(picture):
    explanation, (heads, _, pairs) = picture
    for axes, scores in ((heads, explanation.head_scores()), (pairs, explanation.pair_scores())):
        low, high = axes.images[0].get_clim()
        assert -low == high == float(scores.abs().max())
        red, green, blue, _ = axes.images[0].to_rgba(np.zeros((1, 1)))[0, 0]
        assert min(red, green, blue) > 0.95


def test_every_row_and_column_is_named(picture):
    explanation, (heads, _, pairs) = picture
    assert labels(pairs.get_xticklabels()) == labels(pairs.get_yticklabels()) == explanation.tokens
    assert labels(heads.get_yticklabels()) == ["1", "4", "7"]
    assert labels(heads.get_xticklabels()) == ["0", "1", "2", "3"]
    assert (pairs.get_ylabel(), pairs.get_xlabel()) == ("query: the token that looks", "key: the token looked at")
    assert (heads.get_ylabel(), heads.get_xlabel()) == ("layer", "head")


def test_the_bars_are_the_strongest_pairs(picture):
    explanation, (_, strongest, _) = picture
    best = explanation.top_pairs(len(strongest.patches))
    names = explanation.token_names
    assert [bar.get_width() for bar in strongest.patches] == pytest.approx([pair.score for pair in best])
    assert labels(strongest.get_yticklabels()) == [
        f"{names[p.query]} \N{RIGHTWARDS ARROW} {names[p.key]}" for p in best
    ]
    colours = {bar.get_width() > 0: bar.get_facecolor() for bar in strongest.patches}
    assert len(set(colours.values())) == len(colours)


def test_bars_that_would_be_too_short_to_see_are_left_out():
    explanation = made(6)
    explanation.attributions.mul_(0.001 / explanation.pair_scores().abs().max())
    explanation.attributions[0, 0, 2, 3] += 1
    _, (_, strongest, _) = visualize_explanation(explanation)
    assert len(strongest.patches) == 1


def test_of_200_tokens_the_128_strongest_are_drawn_and_that_is_said():
    explanation = made(200)
    explanation.attributions[:, :, 50:122] *= 1e-3
    explanation.attributions[:, :, :, 50:122] *= 1e-3
    _, (_, _, pairs) = visualize_explanation(explanation)
    kept = [*range(50), *range(122, 200)]
    np.testing.assert_array_equal(pairs.images[0].get_array(), explanation.pair_scores().numpy()[np.ix_(kept, kept)])
    assert labels(pairs.get_yticklabels()) == [explanation.tokens[place] for place in kept]
    assert pairs.get_title() == "Attribution of each token pair, summed over layers and heads (72 weak tokens left out)"


def test_of_128_tokens_none_is_left_out():
    _, (_, _, pairs) = visualize_explanation(made(128))
    assert len(pairs.get_yticklabels()) == 128
    assert pairs.get_title() == "Attribution of each token pair, summed over layers and heads"


@pytest.mark.parametrize("shape", [(5, 1, 12), (5, 12, 12), (16, 6, 12), (60, 24, 16), (60, 3, 4)])
def test_no_label_is_cut_off_and_none_covers_another(shape):
    figure, (heads, strongest, pairs) = visualize_explanation(made(shape[0], *shape[1:]))
    renderer = drawn(figure)
    for axes in (heads, strongest, pairs):
        box = axes.get_tightbbox(renderer)
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.texts[0].get_window_extent(renderer).y0
        for ticks, across in ((axes.get_yticklabels(), "y"), (axes.get_xticklabels(), "x")):
            ends = sorted(getattr(label.get_window_extent(renderer), f"interval{across}").tolist() for label in ticks)
            assert all(one[1] <= other[0] + 1 for one, other in pairwise(ends))
    boxes = [axes.get_tightbbox(renderer) for axes in (heads, strongest, pairs)]
    assert not any(one.overlaps(other) for one, other in ((boxes[0], boxes[1]), (boxes[0], boxes[2]), boxes[1:]))


def test_the_title_says_what_is_explained():
    figure, _ = visualize_explanation(made(5, text="A  warm,\n funny film."))
    words = "A warm, funny film.\nprobability of 'good': 0.750 (purple speaks for it, orange against it)"
    assert figure.get_suptitle() == words


def test_the_title_of_a_long_text_is_short():
    figure, _ = visualize_explanation(made(5, text="long " * 100))
    assert len(figure.get_suptitle().splitlines()[0]) == 110


def test_a_pair_of_texts_and_its_logit():
    explanation = explain("So long", *bert(), text_pair="Short", target=2, output="logit")
    figure, (_, strongest, pairs) = visualize_explanation(explanation)
    assert figure.get_suptitle().startswith("So long | Short\nlogit of 'LABEL_2': ")
    assert labels(pairs.get_yticklabels()) == explanation.tokens
    assert strongest.get_xlabel() == "attribution, logit"
    drawn(figure)


def test_the_joint_path():
    explanation = explain("So long", *bert(), path="joint")
    figure, (heads, _, _) = visualize_explanation(explanation)
    np.testing.assert_array_equal(heads.images[0].get_array(), explanation.head_scores().numpy())
    drawn(figure)


@pytest.mark.parametrize("text", ["It costs $5 and $6.", "$x^2$", r"\$ or $\frac$", "_ {} ^ % # &"])
def test_dollars_and_the_like_are_drawn_as_they_are(text):
    figure, (_, _, pairs) = visualize_explanation(made(6, text=text, tokens=["[CLS]", *4 * [text], "[SEP]"]))
    drawn(figure)
    assert figure.get_suptitle().startswith(f"{text}\n")
    assert labels(pairs.get_yticklabels())[1] == text


def test_attributions_that_are_all_zero():
    explanation = made(5, scale=0.0)
    figure, (heads, strongest, pairs) = visualize_explanation(explanation)
    drawn(figure)
    assert heads.images[0].get_clim() == pairs.images[0].get_clim() == (-1, 1)
    assert len(strongest.patches) == 0


def test_it_needs_no_display_and_leaves_pyplot_alone(monkeypatch, tmp_path):
    for name in ("MPLBACKEND", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("figure", "switch_backend", "get_current_fig_manager", "show"):
        monkeypatch.setattr(plt, name, lambda *_, **__: pytest.fail("pyplot was asked"))
    figure, _ = visualize_explanation(made(5))
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("size", "options"),
    [((13, 8), {"layout": "constrained"}), ((24, 10), {}), ((12, 16), {"layout": "tight", "dpi": 50})],
)
def test_it_draws_into_a_given_figure_and_keeps_its_size(size, options, recwarn):
    given = Figure(figsize=size, **options)
    figure, axes = visualize_explanation(made(8), given)
    assert figure is given
    assert tuple(given.get_size_inches()) == size
    renderer = drawn(given)
    assert not recwarn.list
    for one in axes:
        box = one.get_tightbbox(renderer)
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= given.bbox.x1
        assert box.y1 <= given.bbox.y1


def test_a_figure_far_too_small_is_drawn_all_the_same():
    figure, axes = visualize_explanation(made(60), Figure(figsize=(3, 2)))
    drawn(figure)
    assert len(axes) == 3
