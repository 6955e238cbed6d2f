"""The picture of an explanation: it shows what acts together, is readable at every length, and needs no display."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from made_explanations import drawn, labels, made
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tiny_classifiers import bert

from captum_attattr import explain, visualize_explanation
from captum_attattr.colours import colour
from captum_attattr.text.overview import Overview, number, signed

JOINT = {"output": "log-odds", "path": "joint"}


def read_by_first(count, *sizes, **fields):
    """A joint explanation whose output reads the first token only."""
    explanation = made(count, *sizes, **{"settings": JOINT, "delta": torch.zeros(1), **fields})
    explanation.attributions[-1, :, 1:] = 0
    return explanation


@pytest.fixture(scope="module", params=[3, 5, 16, 60])
def picture(request):
    """An explanation by words, its overview, and its axes."""
    explanation = read_by_first(request.param, layers=3)
    explanation = replace(explanation, layers=[1, 4, 7])
    return explanation.words, Overview(explanation.words), visualize_explanation(explanation)[1]


def test_the_sentence_has_the_colours_of_what_its_words_receive(picture):
    explanation, _, (sentence, *_) = picture
    scores = explanation.token_scores()
    assert [text.get_text() for text in sentence.texts] == explanation.tokens
    boxes = [to_hex(text.get_bbox_patch().get_facecolor()) for text in sentence.texts]
    assert boxes == [colour(float(score / scores.abs().max())) for score in scores]


def test_the_bars_are_what_the_first_token_reads(picture):
    explanation, _, (_, reads, *_) = picture
    row = explanation.pair_scores()[0]
    assert [bar.get_width() for bar in reads.patches] == pytest.approx(row.tolist())
    assert labels(reads.get_yticklabels()) == explanation.tokens
    assert reads.get_title(loc="left") == f"What [CLS] reads: {signed(float(row.sum()))}"
    colours = {bar.get_width() > 0: bar.get_facecolor() for bar in reads.patches}
    assert len(set(colours.values())) == len(colours)


def test_the_map_is_words_to_words_on_its_own_scale(picture):
    explanation, view, (_, _, between, _) = picture
    assert view.own == [place for place, added in enumerate(explanation.special) if not added]
    scores = explanation.pair_scores()[view.own][:, view.own].numpy()
    np.testing.assert_array_equal(between.images[0].get_array(), scores)
    assert between.images[0].get_clim() == pytest.approx((-abs(scores).max(), abs(scores).max()))
    names = [explanation.tokens[place] for place in view.own]
    assert labels(between.get_xticklabels()) == labels(between.get_yticklabels()) == names
    net, part = signed(float(scores.sum())), np.abs(scores).sum() / explanation.pair_scores().abs().sum()
    title = f"Between words: net {net}, {part:.0%} of all magnitude; darkest {number(abs(scores).max())}"
    assert between.get_title(loc="left") == title


def test_heads_have_the_last_layer_on_top(picture):
    explanation, _, (*_, heads) = picture
    np.testing.assert_array_equal(heads.images[0].get_array(), explanation.head_scores().numpy())
    assert labels(heads.get_yticklabels()) == ["1", "4", "7"]
    assert labels(heads.get_xticklabels()) == ["0", "1", "2", "3"]
    bottom, top = heads.get_ylim()
    assert bottom < top


def test_white_is_zero(picture):
    for axes in picture[2][2:]:
        low, high = axes.images[0].get_clim()
        assert -low == high
        red, green, blue, _ = axes.images[0].to_rgba(np.zeros((1, 1)))[0, 0]
        assert min(red, green, blue) > 0.95


def test_of_200_words_the_60_strongest_are_drawn_and_that_is_said():
    explanation = read_by_first(200)
    explanation.attributions[:, :, 70:] *= 1e-3
    explanation.attributions[:, :, :, 70:] *= 1e-3
    words = explanation.words
    _, (sentence, reads, between, _) = visualize_explanation(explanation)
    assert len(sentence.texts) == len(words.tokens)
    assert len(reads.patches) == 60
    assert between.images[0].get_array().shape == (60, 60)
    for axes in (reads, between):
        assert axes.get_title(loc="left").endswith(" words)")
        assert "\n(the 60 strongest of " in axes.get_title(loc="left")
    row = words.pair_scores()[0]
    kept = sorted(row.abs().topk(60).indices.tolist())
    assert labels(reads.get_yticklabels()) == [words.tokens[place] for place in kept]


def test_more_or_fewer_are_drawn_on_request():
    _, (_, reads, between, _) = visualize_explanation(read_by_first(30), most=5)
    assert len(reads.patches) == 5
    assert between.images[0].get_array().shape == (5, 5)
    with pytest.raises(ValueError, match="most must be a whole number"):
        visualize_explanation(made(5), most=0)


def test_words_or_pieces():
    explanation = explain("An unputdownable film", *bert())
    _, (_, reads, *_) = visualize_explanation(explanation)
    assert "unputdownable" in labels(reads.get_yticklabels())
    _, (_, reads, *_) = visualize_explanation(explanation, pieces=True)
    assert "##put" in labels(reads.get_yticklabels())


def test_each_layer_has_a_map_of_its_own_where_layerwise_attributions_are_there():
    explanation = explain("A warm, funny film.", *bert(), layerwise=True)
    figure, (_, _, _, _, *maps) = visualize_explanation(explanation)
    assert [axes.get_label() for axes in maps] == ["layer 2", "layer 1", "layer 0"]
    layerwise = explanation.layerwise.words
    rises = layerwise.output - layerwise.baseline_output
    for axes, layer in zip(maps, (2, 1, 0)):
        np.testing.assert_array_equal(axes.images[0].get_array(), layerwise.attributions[layer].sum(0).numpy())
        assert axes.get_title(loc="left").startswith(f"layer {layer}: {signed(float(rises[layer]))}\ndarkest ")
    assert any("they do not add up" in text.get_text() for text in figure.texts)


def test_a_layerwise_explanation_is_called_a_ranking():
    explanation = explain("A warm, funny film.", *bert(), path="layerwise")
    figure, axes = visualize_explanation(explanation)
    assert len(axes) == 4 + 3
    assert "ranking, not shares" in " ".join(figure.texts[0].get_text().split())


@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (5, 1, 12), (5, 12, 12), (16, 6, 12), (60, 24, 16), (60, 3, 4), (200, 3, 4)]
)
def test_no_label_is_cut_off_and_none_covers_another(shape):
    figure, (sentence, *axes) = visualize_explanation(read_by_first(shape[0], *shape[1:]))
    renderer = drawn(figure)
    for one in axes:
        box = one.get_tightbbox(renderer)
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        for ticks, across in ((one.get_yticklabels(), "y"), (one.get_xticklabels(), "x")):
            ends = sorted(getattr(label.get_window_extent(renderer), f"interval{across}").tolist() for label in ticks)
            assert all(first[1] <= second[0] + 1 for first, second in pairwise(ends))
    words = [text.get_window_extent(renderer) for text in sentence.texts]
    assert max(word.x1 for word in words) <= figure.bbox.x1
    parts = [
        *(one.get_tightbbox(renderer) for one in axes),
        *(text.get_window_extent(renderer) for text in figure.texts),
        *words,
    ]
    assert max(part.y1 for part in parts) <= figure.bbox.y1
    for place, one in enumerate(parts):
        assert not any(_overlap(one, other) for other in parts[place + 1 :])


def _overlap(one, other):
    """Whether two boxes share more than a pixel's breadth."""
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(wide, high) > 1


def test_the_title_is_the_answer_as_a_sum():
    explanation = explain("So long", *bert(), target=2)
    figure, _ = visualize_explanation(explanation)
    title = " ".join(figure.texts[0].get_text().split())
    view = Overview(explanation.words)
    assert title == f"{view.answer}: {view.sum_of_parts}"
    assert f"{number(view.without)} without attention" in title


def test_a_pair_of_texts_and_its_logit():
    explanation = explain("So long", *bert(), text_pair="Short", target=2, output="logit")
    figure, (sentence, _, between, _) = visualize_explanation(explanation)
    assert [text.get_text() for text in sentence.texts] == ["[CLS]", "So", "long", "[SEP]", "Short", "[SEP]"]
    row, column = between.lines  # the second text begins after two words
    assert (row.get_ydata()[0], column.get_xdata()[0]) == (1.5, 1.5)
    assert "logit" in figure.texts[0].get_text()
    drawn(figure)


@pytest.mark.parametrize("text", ["It costs $5 and $6.", "$x^2$", r"\$ or $\frac$", "_ {} ^ % # &"])
def test_dollars_and_the_like_are_drawn_as_they_are(text):
    explanation = read_by_first(6, text=text, tokens=["[CLS]", *4 * [text], "[SEP]"], labels=[text, text])
    figure, (sentence, reads, *_) = visualize_explanation(explanation)
    drawn(figure)
    assert sentence.texts[1].get_text() == labels(reads.get_yticklabels())[1] == text


def test_attributions_that_are_all_zero():
    figure, (_, _, between, heads) = visualize_explanation(read_by_first(5, scale=0.0))
    drawn(figure)
    assert heads.images[0].get_clim() == between.images[0].get_clim() == (-1, 1)


def test_one_word_alone():
    figure, _ = visualize_explanation(explain("Dull", *bert()))
    drawn(figure)


def test_it_needs_no_display_and_leaves_pyplot_alone(monkeypatch, tmp_path):
    for name in ("MPLBACKEND", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("figure", "switch_backend", "get_current_fig_manager", "show"):
        monkeypatch.setattr(plt, name, lambda *_, **__: pytest.fail("pyplot was asked"))
    figure, _ = visualize_explanation(read_by_first(5))
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("size", "options"),
    [((13, 9), {"layout": "constrained"}), ((24, 10), {}), ((12, 16), {"layout": "tight", "dpi": 50})],
)
def test_it_draws_into_a_given_figure_and_keeps_its_size(size, options, recwarn):
    given = Figure(figsize=size, **options)
    figure, axes = visualize_explanation(read_by_first(8), given)
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
    figure, axes = visualize_explanation(read_by_first(60), Figure(figsize=(3, 2)))
    drawn(figure)
    assert len(axes) == 4
