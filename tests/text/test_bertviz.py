"""``to_bertviz`` gives what bertviz takes: its views draw these numbers, tokens and layers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from made_explanations import made

bertviz = pytest.importorskip("bertviz", reason="bertviz is not installed")
from bertviz import head_view, model_view  # noqa: E402

KINDS = {
    "magnitude": lambda attributions: attributions.abs(),
    "positive": lambda attributions: attributions.clamp(min=0),
    "negative": lambda attributions: -attributions.clamp(max=0),
}


def drawn(view, explanation, **settings):
    """What the view's script is given."""
    page = view(**explanation.to_bertviz(**settings), html_action="return").data
    return json.JSONDecoder().raw_decode(page.split("const params = ")[1])[0]


@pytest.fixture(scope="module")
def explanation():
    return replace(made(6, layers=2, heads=3), layers=[1, 4])


@pytest.mark.parametrize("view", [head_view, model_view])
@pytest.mark.parametrize("kind", KINDS)
def test_the_views_draw_the_attributions_of_each_layer_over_its_largest(view, kind, explanation):
    params = drawn(view, explanation, kind=kind)
    (matrices,) = params["attention"]
    attributions = explanation.attributions
    wanted = KINDS[kind](attributions) / attributions.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(torch.tensor(matrices["attn"]), wanted)
    assert matrices["left_text"] == matrices["right_text"] == explanation.tokens
    assert params["include_layers"] == [1, 4]


@pytest.mark.parametrize("view", [head_view, model_view])
def test_the_views_draw_the_attention_as_it_is(view, explanation):
    (matrices,) = drawn(view, explanation, kind="attention")["attention"]
    torch.testing.assert_close(torch.tensor(matrices["attn"]), explanation.attention)


def test_positive_and_negative_make_up_the_magnitude_which_is_the_default(explanation):
    views = [explanation.to_bertviz(kind)["attention"] for kind in ("positive", "negative", "magnitude")]
    for positive, negative, magnitude, default in zip(*views, explanation.to_bertviz()["attention"]):
        torch.testing.assert_close(positive + negative, magnitude)
        assert torch.equal(magnitude, default)
        assert magnitude.shape == (1, 3, 6, 6)


def test_of_a_pair_the_views_can_show_one_text_looking_at_the_other():
    pair = replace(made(7), text_pair="a film", special=[place in (0, 3, 6) for place in range(7)])
    views = drawn(head_view, pair)["attention"]
    across = next(view for view in views if view["name"] == "Sentence A -> Sentence B")
    assert [across["left_text"], across["right_text"]] == [pair.tokens[:4], pair.tokens[4:]]


def test_a_text_alone_has_no_second_one(explanation):
    assert "sentence_b_start" not in explanation.to_bertviz()
    assert "sentence_b_start" not in replace(explanation, text_pair="a", special=[False] * 6).to_bertviz()


def test_attributions_of_zero_stay_zero():
    assert all(float(layer.abs().max()) == 0 for layer in made(3, scale=0.0).to_bertviz()["attention"])


def test_an_unknown_kind(explanation):
    with pytest.raises(ValueError, match=r"Unknown kind 'signed'\. Choose 'magnitude', 'positive', 'negative' or 'att"):
        explanation.to_bertviz("signed")
