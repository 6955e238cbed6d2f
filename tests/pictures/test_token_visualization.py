"""Token scores and token pairs, as Captum's visualizers get them and as they are drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients, LLMAttributionResult, visualization
from made_explanations import drawn, labels, made
from matplotlib.figure import Figure
from tiny_classifiers import demo

from captum_attattr import explain, pair_scores, token_scores
from captum_attattr.pictures import tokens
from captum_attattr.pictures.tokens import (
    token_pair_result,
    token_records,
    visualize_token_pairs,
    visualize_tokens,
)

# --- token scores ---


@pytest.mark.parametrize("reduction", ["received", "sent", "first"])
def test_records_hold_the_scores_scaled_to_their_largest_magnitude(reduction):
    explanation = replace(made(9), delta=torch.tensor([1e-3, -5e-3, 2e-3]))
    [record] = token_records(explanation, reduction)
    scores = token_scores(explanation.attributions, reduction)
    torch.testing.assert_close(record.word_attributions, scores / scores.abs().max())
    assert record.word_attributions.abs().max() == 1
    assert record.attr_score == pytest.approx(float(scores.sum()))
    assert record.convergence_score == pytest.approx(-5e-3)
    assert (record.pred_class, record.attr_class, record.pred_prob) == ("good", "good (ranking, not shares)", 0.75)
    joint = replace(explanation, settings={"output": "logit", "path": "joint"}, delta=torch.zeros(1))
    assert token_records(joint)[0].attr_class == "good"
    assert record.raw_input_ids == explanation.tokens
    assert record.true_class == ""


def test_without_special_tokens_the_words_are_scaled_alone():
    explanation = made(7)
    explanation.attributions[:, :, :, [0, 6]] *= 100
    [record] = token_records(explanation, special=False)
    scores = token_scores(explanation.attributions)[1:6]
    assert record.raw_input_ids == explanation.tokens[1:6]
    torch.testing.assert_close(record.word_attributions, scores / scores.abs().max())
    assert record.attr_score == pytest.approx(float(scores.sum()))


def test_texts_of_one_batch_have_their_own_tokens_and_no_padding():
    texts = ["A warm, funny film.", "Dull."]
    together = token_records(explain(texts, *demo(), n_steps=3))
    for text, record in zip(texts, together):
        [alone] = token_records(explain(text, *demo(), n_steps=3))
        assert record.raw_input_ids == alone.raw_input_ids
        assert not any("PAD" in token for token in record.raw_input_ids)
        assert len(record.word_attributions) == len(record.raw_input_ids)
        torch.testing.assert_close(record.word_attributions, alone.word_attributions, atol=1e-4, rtol=1e-3)


def test_true_labels_by_name_or_number():
    several = [made(5), made(6), made(7)]
    assert [record.true_class for record in token_records(several, true_labels=["bad", 1, None])] == ["bad", "good", ""]
    assert [record.true_class for record in token_records(several, true_labels="bad")] == ["bad"] * 3
    for numbers in (torch.tensor([1, 0, 1]), np.array([1, 0, 1])):
        assert [record.true_class for record in token_records(several, true_labels=numbers)] == ["good", "bad", "good"]


def test_the_table_escapes_tokens_and_labels(capsys):
    nasty = '<script>alert("x")</script>'
    explanation = replace(made(4), tokens=["<s>", nasty, "a & b", "</s>"], labels=["bad", nasty])
    html = visualize_tokens(explanation, true_labels=nasty).data
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") == 4  # token, true, predicted, explained
    assert "a &amp; b" in html
    assert "&lt;s&gt;" in html


def test_the_table_colours_words_by_sign(capsys):
    explanation = made(4)
    explanation.attributions.zero_()
    explanation.attributions[0, 0, 0] = torch.tensor([0.0, 2.0, -1.0, 0.0])
    html = visualize_tokens(explanation, legend=False).data
    marks = [part.split(";")[0] for part in html.split("background-color: ")[1:]]
    assert marks == ["hsl(0, 75%, 100%)", "hsl(120, 75%, 50%)", "hsl(0, 75%, 80%)", "hsl(0, 75%, 100%)"]


def test_records_of_layer_integrated_gradients_stand_in_the_same_table(capsys):
    model, tokenizer = demo()
    text = "A warm, funny film."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    lig = LayerIntegratedGradients(lambda ids: model(ids).logits.softmax(-1), model.bert.embeddings)
    attributions, delta = lig.attribute(ids, torch.zeros_like(ids), target=1, n_steps=8, return_convergence_delta=True)
    words = attributions.sum(-1)[0]
    other = visualization.VisualizationDataRecord(
        words / words.norm(), 0.9, "positive", "positive", "positive", words.sum(),
        tokenizer.convert_ids_to_tokens(ids[0]), delta,
    )  # fmt: skip
    html = visualize_tokens(explain(text, model, tokenizer, n_steps=4), true_labels="positive", beside=[other]).data
    assert html.count("warm") == 2
    assert html.count("positive (") == 2
    assert html.count("Word Importance") == 1


def test_scores_that_are_all_zero_stay_zero(capsys):
    explanation = made(5, scale=0.0)
    assert token_records(explanation)[0].word_attributions.tolist() == [0] * 5
    visualize_tokens(explanation)


def test_without_ipython_the_table_says_what_to_do_and_the_records_are_there(monkeypatch):
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install ipython"):
        visualize_tokens(made(5))
    assert len(token_records([made(5), made(6)])) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"explanations": "a text"}, TypeError, "got a str"),
        ({"explanations": [made(5), None]}, TypeError, "got a NoneType"),
        ({"reduction": "median"}, ValueError, "Unknown reduction 'median'"),
        ({"true_labels": ["bad", "bad"]}, ValueError, "2 true labels for 1"),
        ({"true_labels": "great"}, ValueError, r"Its labels: 0 \(bad\), 1 \(good\)"),
        ({"true_labels": 2}, ValueError, "True label 2"),
    ],
)
def test_records_that_cannot_be_made_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        token_records(**{"explanations": made(5), **change})


# --- token pairs ---


@pytest.mark.parametrize("count", [5, 20, 60])
@pytest.mark.parametrize(
    ("layer", "head", "where"),
    [
        (None, None, "summed over layers and heads (a ranking, not shares)"),
        (7, None, "layer 7, summed over heads"),
        (4, 2, "layer 4, head 2"),
    ],
)
def test_the_map_is_the_attributions_that_were_asked_for(count, layer, head, where):
    explanation = replace(made(count), layers=[1, 4, 7])
    _, axes = visualize_token_pairs(explanation, layer, head)
    attributions = explanation.attributions
    attributions = attributions if layer is None else attributions[[[1, 4, 7].index(layer)]]
    attributions = attributions if head is None else attributions[:, [head]]
    np.testing.assert_allclose(axes.images[0].get_array(), attributions.sum((0, 1)).numpy(), rtol=1e-6, atol=1e-6)
    assert labels(axes.get_xticklabels()) == labels(axes.get_yticklabels()) == explanation.tokens
    assert axes.get_title() == f"Attribution of each token pair for the probability of 'good', {where}"
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("query: the token that looks", "key: the token looked at")


@pytest.mark.parametrize(
    ("normalize", "unit"),
    [
        (None, "attribution, probability"),
        ("max", "attribution / largest magnitude"),
        ("l1", "attribution / sum of magnitudes"),
        ("l2", "attribution / norm"),
    ],
)
def test_white_is_zero_and_the_colour_bar_is_in_the_unit_of_what_is_drawn(normalize, unit):
    explanation = made(8)
    _, axes = visualize_token_pairs(explanation, normalize=normalize)
    image = axes.images[0]
    np.testing.assert_allclose(image.get_array(), pair_scores(explanation.attributions, normalize).numpy())
    low, high = image.get_clim()
    assert -low == high == np.abs(image.get_array()).max()
    assert min(image.to_rgba(np.zeros((1, 1)))[0, 0, :3]) > 0.95
    [bar] = axes.child_axes
    assert bar.get_ylabel() == unit


def test_of_a_long_text_the_strongest_rows_and_columns_are_drawn_and_that_is_said():
    explanation = made(128)
    explanation.attributions.mul_(1e-4)
    rows, columns = [0, *range(30, 69)], [*range(20, 59), 127]
    for row, column in zip(rows, columns):
        explanation.attributions[:, :, row, column] = 1.0
    _, axes = visualize_token_pairs(explanation, most=40)
    scores = explanation.pair_scores().numpy()
    np.testing.assert_array_equal(axes.images[0].get_array(), scores[np.ix_(rows, columns)])
    assert labels(axes.get_yticklabels()) == [explanation.tokens[place] for place in rows]
    assert labels(axes.get_xticklabels()) == [explanation.tokens[place] for place in columns]
    part = np.abs(scores[np.ix_(rows, columns)]).sum() / np.abs(scores).sum()
    assert axes.get_title().endswith(
        f"\nThe 40 strongest rows and columns of 128, which hold {part:.0%} of the magnitude"
    )


@pytest.mark.parametrize("count", [5, 20, 60, 128, 500])
def test_every_label_can_be_read_and_is_in_the_picture(count):
    figure, axes = visualize_token_pairs(made(count))
    renderer = drawn(figure)
    for ticks, side in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
        boxes = [label.get_window_extent(renderer) for label in ticks]
        edges = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
        assert all(end <= start + 1 for (_, end), (start, _) in pairwise(edges))
        assert {label.get_fontsize() for label in ticks} == {ticks[0].get_fontsize()}
        assert ticks[0].get_fontsize() >= 8
    box = axes.get_tightbbox(renderer)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert max(figure.get_size_inches()) < 14


def test_a_text_of_sixty_tokens_is_drawn_whole():
    _, axes = visualize_token_pairs(made(60))
    assert axes.images[0].get_array().shape == (60, 60)
    _, axes = visualize_token_pairs(made(61))
    assert axes.images[0].get_array().shape == (60, 60)


def test_it_draws_into_given_axes_as_captums_do():
    figure = Figure(figsize=(12, 6))
    left, right = figure.subplots(1, 2)
    given, axes = visualize_token_pairs(made(12), layer=0, title="left", plt_fig_axis=(figure, left))
    visualize_token_pairs(made(12), layer=1, plt_fig_axis=(figure, right))
    assert (given, axes) == (figure, left)
    assert tuple(figure.get_size_inches()) == (12, 6)
    assert left.get_title() == "left"
    drawn(figure)
    for one, layer in ((left, 0), (right, 1)):
        wanted = made(12).attributions[layer].sum(0).numpy()
        np.testing.assert_allclose(one.images[0].get_array(), wanted, rtol=1e-6, atol=1e-6)


def test_pairs_need_no_display_and_leave_pyplot_alone(monkeypatch, tmp_path):
    for name in ("MPLBACKEND", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("figure", "switch_backend", "show"):
        monkeypatch.setattr(plt, name, lambda *_, **__: pytest.fail("pyplot was asked"))
    figure, _ = visualize_token_pairs(made(5))
    figure.savefig(tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")


def test_with_pyplot_the_figure_is_pyplots_and_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    figure, _ = visualize_token_pairs(made(5), use_pyplot=True)
    assert shown == [[figure.number]]
    plt.close(figure)


@pytest.mark.parametrize("text", ["$x^2$", r"\frac", "_ {} ^ % # &"])
def test_tokens_are_named_as_they_are(text):
    figure, axes = visualize_token_pairs(replace(made(4), tokens=[text] * 4, labels=[text, text]))
    drawn(figure)
    assert labels(axes.get_yticklabels()) == [text] * 4


def test_pairs_that_are_all_zero_are_white():
    figure, axes = visualize_token_pairs(made(5, scale=0.0))
    drawn(figure)
    assert axes.images[0].get_clim() == (-1, 1)


def test_captums_own_result_holds_the_same_pairs_and_draws_them(monkeypatch):
    explanation = made(6)
    result = token_pair_result(explanation, 1, 2, normalize="max")
    assert isinstance(result, LLMAttributionResult)
    wanted = pair_scores(explanation.attributions[[1]][:, [2]], "max")
    torch.testing.assert_close(result.token_attr, wanted)
    torch.testing.assert_close(result.seq_attr, wanted.sum(0))
    figure, axes = result.plot_token_attr()
    np.testing.assert_allclose(axes.images[0].get_array(), wanted.numpy(), rtol=1e-6)
    assert labels(axes.get_yticklabels()) == explanation.token_names
    plt.close(figure)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": 3}, ValueError, r"not among the explained layers \[0, 1, 2\]"),
        ({"layer": 0, "head": 4}, ValueError, "layer 0 has the heads 0 to 3"),
        ({"layer": 0, "head": -1}, ValueError, "head -1 does not exist"),
        ({"layer": 0, "head": True}, ValueError, "head True does not exist"),
        ({"head": 1}, ValueError, "of which layer"),
        ({"normalize": "softmax"}, ValueError, "Unknown normalize 'softmax'"),
        ({"most": 0}, ValueError, "most must be a whole number"),
        ({"explanation": [made(5)]}, TypeError, "got a list"),
    ],
)
def test_pairs_that_cannot_be_drawn_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        visualize_token_pairs(**{"explanation": made(5), **change})
