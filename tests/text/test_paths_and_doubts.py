"""Which path ``explain`` takes, layerwise attributions beside joint ones, and warnings of what is of little use."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_explain import assert_close, assert_same
from tiny_classifiers import bert, demo

from captum_attattr import Explanation, explain

TEXT = "A warm, funny film."
TEXTS = ["Dull.", TEXT, "It is not without charm, and it is not dull."]


def test_joint_log_odds_are_shown_unless_layers_are_asked_for():
    model, tokenizer = bert()
    one = explain(TEXT, model, tokenizer)
    assert (one.settings["path"], one.settings["output"], one.layerwise) == ("joint", "log-odds", None)
    probability = one.probabilities[one.target]
    assert one.output == pytest.approx(float(probability.logit()), rel=1e-4)
    torch.testing.assert_close(one.attributions.sum(), one.output - one.baseline_output[0] + one.delta[0])
    assert explain(TEXT, model, tokenizer, layers=[1]).settings["path"] == "layerwise"
    assert explain(TEXT, model, tokenizer, layers=[1], path="joint").settings["path"] == "joint"


@pytest.mark.parametrize(("layerwise", "layers"), [(True, [0, 1, 2]), ([2, 0], [0, 2])])
def test_layerwise_attributions_beside_are_those_of_the_layerwise_path(layerwise, layers):
    model, tokenizer = bert()
    together = explain(TEXTS, model, tokenizer, layerwise=layerwise)
    for found, joint, apart in zip(
        together, explain(TEXTS, model, tokenizer), explain(TEXTS, model, tokenizer, path="layerwise")
    ):
        assert_close(found, joint)
        beside = found.layerwise
        assert (beside.layers, beside.settings["path"], beside.layerwise) == (layers, "layerwise", None)
        torch.testing.assert_close(beside.attributions, apart.attributions[layers], rtol=1e-4, atol=1e-5)
        assert beside.tokens == found.tokens


def test_layers_of_both_paths_may_differ():
    found = explain(TEXT, *bert(), layers=[1, 2], path="joint", layerwise=[0])
    assert (found.layers, found.layerwise.layers) == ([1, 2], [0])
    assert explain(TEXT, *bert(), layers=[1], layerwise=True).layerwise is None  # it is layerwise already


@pytest.mark.parametrize(
    ("layerwise", "error", "message"),
    [
        ([], ValueError, "must name at least one layer"),
        ([1, 1], ValueError, "each of them once"),
        ([7], ValueError, r"layers \[7\] do not all exist: the model has layers 0 to 2"),
        ("all", TypeError, "layerwise must be a list of layer numbers, got 'all'"),
    ],
)
def test_layers_that_do_not_exist_are_refused(layerwise, error, message):
    with pytest.raises(error, match=message):
        explain(TEXT, *bert(), layerwise=layerwise)


def test_both_are_saved_and_read_again(tmp_path):
    found = explain(TEXT, *bert(), layerwise=[0, 2])
    read = Explanation.load(found.save(tmp_path / "x.safetensors"))
    assert_same(read.layerwise, found.layerwise)
    assert read.spans == found.spans
    assert read.to_dict() == found.to_dict()
    assert found.to_dict()["layerwise"]["layers"] == [0, 2]


def test_a_saturated_probability_is_told_once_for_all_texts():
    texts = ["A warm, funny, wonderful film.", "A truly great film!", "The plot was interesting."]
    certain = [float(e.probabilities.max()) > 0.99 for e in explain(texts, *demo())]
    assert any(certain)
    with pytest.warns(UserWarning, match=r"of 3 texts .* a probability above 0\.99, .*output='log-odds'") as told:
        explain(texts, *demo(), output="probability", tolerance=None, n_steps=2)
    assert len([one for one in told if "0.99" in str(one.message)]) == 1
    with pytest.warns(UserWarning, match="The text has a probability above"):
        explain(texts[certain.index(True)], *demo(), output="probability", tolerance=None, n_steps=3)


def test_many_unknown_words_are_told():
    with pytest.warns(UserWarning, match=r"The text has more than 30% tokens that the tokenizer does not know"):
        explain("ᚠᚢᚦ ᚨᚱᚲ good ᚷᚹᚺ", *bert())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(TEXT, *bert())
