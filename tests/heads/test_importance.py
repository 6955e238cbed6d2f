"""Head importance against direct computations in float64, over every form of data, resumed and refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
import transformers as hf
from agreement import assert_agree
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import clean_attention, direct_attribution, injected
from snapshot import untouched
from tiny_models import FAMILIES, SMALL, case, make

from captum_attattr import UnsupportedModelError, attention_layers
from captum_attattr.attention import mask_heads
from captum_attattr.heads import MEASURES, Ablation, AttAttr, Measure, Random
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.heads.moments import Moments, merge
from captum_attattr.pruning import prune_heads

__all__ = ["untouched"]

BERT = FAMILIES[0]
CLASSIFIERS = [family for family in FAMILIES if family.name in ("bert", "distilbert", "llama", "modernbert", "vit")]
families = pytest.mark.parametrize("family", CLASSIFIERS, ids=lambda family: family.name)
LABELS = [2, 0, 1]
STEPS = 8  # of the rule, here and by hand


def batch_of(c):
    name = "pixel_values" if c.mask is None else "input_ids"
    return {name: c.inputs, **({} if c.mask is None else {"attention_mask": c.mask})}


def probability(c):
    """Of each example's label, (B,)."""
    return c.forward(c.inputs, c.mask)[range(len(LABELS)), LABELS]


def importance(c, measure, **options):
    found = HeadImportance(c.model, measure=measure, **options)
    found.update(batch_of(c), LABELS)
    return found.compute()


# Each measure against its formula, written out


def direct_attributions(c):
    """One (B, H, T, T) a layer."""
    found = []
    for layer in attention_layers(c.model):
        attributions, _ = direct_attribution(c.model, lambda: probability(c), [layer], padding=c.padding, n_steps=STEPS)
        found += attributions
    return found


def by_attattr(c):
    return [attribution.amax((-2, -1)) for attribution in direct_attributions(c)]


def by_attattr_sum(c):
    return [attribution.sum((-2, -1)).abs() for attribution in direct_attributions(c)]


def by_attattr_absolute(c):
    return [attribution.abs().sum((-2, -1)) for attribution in direct_attributions(c)]


def by_taylor(c):
    """|sum of A * dF/dA| with the matrix itself in the graph."""
    layers, seen = attention_layers(c.model), {}

    def watch(module, attention):
        seen[module] = attention if attention.requires_grad else attention.detach().requires_grad_()
        return seen[module]

    with injected(c.model, watch):
        gradients = torch.autograd.grad(probability(c).sum(), [seen[layer] for layer in layers])
    return [(seen[layer] * gradient).sum((-2, -1)).abs() for layer, gradient in zip(layers, gradients)]


def by_attention(c):
    matrices = clean_attention(c.model, lambda: probability(c), attention_layers(c.model))
    if c.mask is not None:
        matrices = [matrix * c.mask[:, None, :, None] for matrix in matrices]
    return [matrix.amax((-2, -1)) for matrix in matrices]


def by_masking(c, worth):
    """One whole pass for each head."""
    counts = [attention.shape[1] for attention in clean_attention(c.model, lambda: probability(c), layers_of(c))]
    clean, found = worth(), []
    for layer, count in enumerate(counts):
        scores = []
        for head in range(count):
            with mask_heads(c.model, {layer: [head]}):
                scores.append(clean - worth())
        found.append(torch.stack(scores, 1))
    return found


def layers_of(c):
    return attention_layers(c.model)


def by_ablation(c):
    return by_masking(c, lambda: probability(c).log())


def by_ablation_output(c):
    return by_masking(c, lambda: probability(c))


def by_ablation_accuracy(c):
    return by_masking(c, lambda: (c.forward(c.inputs, c.mask).argmax(-1) == torch.tensor(LABELS).to(c.inputs)).double())


DIRECT = {
    "attattr": by_attattr,
    "attattr_sum": by_attattr_sum,
    "attattr_absolute": by_attattr_absolute,
    "taylor": by_taylor,
    "attention": by_attention,
    "ablation": by_ablation,
    "ablation_output": by_ablation_output,
    "ablation_accuracy": by_ablation_accuracy,
}


@families
@pytest.mark.parametrize("name", DIRECT)
def test_the_measure_is_its_formula(family, name):
    c = case(family, batch=3)
    measure = AttAttr(MEASURES[name].reduction, n_steps=STEPS, tolerance=None) if name.startswith("attattr") else name
    expected = torch.stack([layer.detach().cpu() for layer in DIRECT[name](c)], 1)  # (B, L, H)
    found = importance(c, measure)
    tolerance = {"rtol": max(1e-6, 10 * family.digits), "atol": 1e-7}
    torch.testing.assert_close(found.scores, expected.mean(0), **tolerance)
    torch.testing.assert_close(found.standard_deviation, expected.std(0), **tolerance)
    assert found.examples == 3
    assert name == "ablation_accuracy" or found.scores.abs().max() > 1e-3


def test_the_tolerance_of_attattr_is_kept():
    c = case(BERT, batch=3)
    exact, found = importance(c, AttAttr(tolerance=None)), importance(c, AttAttr(tolerance=0.01))
    assert 0 < (found.scores - exact.scores).abs().max() < 0.01 * exact.scores.max()


@pytest.mark.parametrize("name", DIRECT)
def test_sentences_count_the_same_alone_and_in_a_padded_batch(name):
    c = case(BERT, batch=3)
    together = importance(c, name)
    found = HeadImportance(c.model, measure=name)
    for row, label in enumerate(LABELS):
        kept = c.mask[row].bool()
        found.update({"input_ids": c.inputs[row : row + 1, kept]}, [label])
    torch.testing.assert_close(found.compute().scores, together.scores, rtol=1e-8, atol=1e-10)


def test_the_predicted_label_may_be_explained():
    c = case(BERT, batch=3)
    predicted = c.forward(c.inputs, c.mask).argmax(-1)
    for name in ("attattr", "taylor", "ablation"):
        found = HeadImportance(c.model, measure=name, target="predicted")
        found.update(batch_of(c))
        gold = HeadImportance(c.model, measure=name)
        gold.update(batch_of(c), predicted)
        assert torch.equal(found.compute().scores, gold.compute().scores)


def test_the_logit_may_be_explained():
    c = case(BERT, batch=3)
    found = importance(c, Ablation("output"), output="logit")
    clean = c.model(**batch_of(c)).logits[range(3), LABELS]
    with mask_heads(c.model, {1: [2]}):
        masked = c.model(**batch_of(c)).logits[range(3), LABELS]
    torch.testing.assert_close(found.scores[1, 2], (clean - masked).mean())


def test_a_function_that_runs_the_model():
    c = case(BERT, batch=3)
    layers = attention_layers(c.model)
    for measure in ("taylor", "ablation_output"):
        found = HeadImportance(c.forward, layers[1:], measure)  # it returns probabilities
        found.update((c.inputs, c.mask), LABELS)
        assert_agree(found.compute().scores, importance(c, measure).scores[1:])


def test_a_language_model_takes_targets_in_captum_s_forms():
    c = case(next(family for family in FAMILIES if family.name == "gpt2"), batch=2, padded=False)
    found = HeadImportance(c.model, measure="taylor", output="logit")
    found.update(c.inputs, [(6, 3), (5, 4)])
    single = []
    for row, target in enumerate([(6, 3), (5, 4)]):
        one = HeadImportance(c.model, measure="taylor", output="logit")
        one.update(c.inputs[row : row + 1], target)
        single.append(one.compute().scores)
    torch.testing.assert_close(found.compute().scores, torch.stack(single).mean(0), rtol=1e-8, atol=1e-12)


def test_a_regression_model_needs_no_labels():
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL, num_labels=1)).double().eval()
    found = HeadImportance(model, measure="taylor")
    found.update({"input_ids": torch.arange(5, 17).view(2, 6)})
    assert found.compute().scores.shape == (3, 4)
    ablation = HeadImportance(model, measure="ablation")
    with pytest.raises(ValueError, match="loss needs logits of labels"):
        ablation.update({"input_ids": torch.arange(5, 17).view(2, 6)})


def test_labels_that_do_not_exclude_each_other_have_sigmoids():
    model = make(BERT)
    model.config.problem_type = "multi_label_classification"
    ids = torch.arange(5, 17).view(2, 6)
    found = HeadImportance(model, measure="ablation")
    found.update(ids, [1, 2])
    clean = model(ids).logits[[0, 1], [1, 2]].sigmoid().log()
    with mask_heads(model, {0: [3]}):
        masked = model(ids).logits[[0, 1], [1, 2]].sigmoid().log()
    torch.testing.assert_close(found.compute().scores[0, 3], (clean - masked).mean())


def test_weights_that_are_used_three_times_make_three_layers():
    torch.manual_seed(0)
    model = hf.AlbertForSequenceClassification(hf.AlbertConfig(**SMALL, embedding_size=16)).eval()
    for name in ("attattr", "taylor", "attention", "ablation", "random"):
        found = HeadImportance(model, measure=name)
        found.update({"input_ids": torch.arange(5, 17).view(2, 6)}, [0, 1])
        assert found.compute().scores.shape == (3, 4)


def test_random_scores_are_of_the_seed_and_nothing_else():
    c = case(BERT, batch=3)
    one, other = importance(c, Random(1)), importance(c, Random(2))
    assert torch.equal(one.scores, importance(c, Random(1)).scores)
    assert not torch.equal(one.scores, other.scores)
    assert one.standard_deviation.abs().max() < 1e-12


def test_one_s_own_measure():
    class Norm(Measure):
        name = "norm"

        def scores(self, examples):
            return [examples.inputs[0].sum(1, keepdim=True).double().expand(-1, 4) for _ in examples.layers]

    c = case(BERT, batch=3)
    found = importance(c, Norm())
    torch.testing.assert_close(found.scores, c.inputs.sum(1).double().mean().expand(3, 4))
    assert found.measure == "norm"


# Pruned and masked models


@pytest.mark.parametrize("name", [*DIRECT, "random"])
def test_a_pruned_model_keeps_the_numbers_of_its_heads(name):
    c = case(BERT, batch=3)
    gone = {0: [0, 2], 1: [0, 1, 2, 3], 2: [1]}
    with mask_heads(c.model, gone):
        masked = importance(c, name).scores
    prune_heads(c.model, gone)
    found = importance(c, name)
    places = torch.zeros(3, 4, dtype=torch.bool)
    for layer, heads in gone.items():
        places[layer, heads] = True
    assert torch.equal(found.scores.isnan(), places)
    assert name == "random" or masked[places].abs().max() < 1e-9
    assert len(found.ranking()) == 5
    if name != "random":
        torch.testing.assert_close(found.scores[~places], masked[~places], rtol=1e-7, atol=1e-9)


def test_without_any_head_there_is_nothing_to_measure():
    c = case(BERT, batch=3)
    prune_heads(c.model, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="All heads of these layers were pruned away"):
        importance(c, "taylor")


# The model is left as it was


@pytest.mark.parametrize("name", MEASURES)
def test_the_model_is_untouched(name, untouched):
    c = case(BERT, batch=3)
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        importance(c, name)


def test_gradients_are_off_or_on_as_they_were():
    c = case(BERT, batch=3)
    with torch.inference_mode():
        inside = [importance(c, name).scores for name in ("attattr", "taylor", "ablation")]
    for one, name in zip(inside, ("attattr", "taylor", "ablation")):
        assert_agree(one, importance(c, name).scores)
    assert all(parameter.grad is None for parameter in c.model.parameters())


def test_taylor_is_one_forward_and_one_backward_pass():
    c = case(BERT, batch=3)
    forward, backward = [], []
    found = HeadImportance(c.model, measure="taylor")
    found.update(batch_of(c), LABELS)  # the first batch also shows what the model is like
    c.model.register_forward_hook(lambda *_: forward.append(1))
    c.model.bert.encoder.layer[1].output.dense.register_full_backward_hook(lambda *_: backward.append(1))
    found.update(batch_of(c), LABELS)
    assert (len(forward), len(backward)) == (1, 1)


# Mean and spread


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.floats(-1e6, 1e6))
@settings(max_examples=25, deadline=None)
def test_parts_merge_to_the_whole(sizes, offset):
    values = torch.randn(sum(sizes), 2, 3, dtype=torch.float64) + offset
    total = merge([None, *(Moments.from_values(part) for part in values.split(sizes))])
    assert total.count == len(values)
    torch.testing.assert_close(total.mean, values.mean(0), rtol=1e-12, atol=1e-9)
    if len(values) > 1:
        torch.testing.assert_close(total.standard_deviation, values.std(0), rtol=1e-6, atol=1e-9)
    again = Moments.from_state_dict(json.loads(json.dumps(total.state_dict())))
    assert torch.equal(again.mean, total.mean)
    assert torch.equal(again.deviations, total.deviations)


def test_one_example_has_no_spread():
    c = case(BERT, batch=3)
    found = HeadImportance(c.model, measure="taylor")
    found.update({"input_ids": c.inputs[:1]}, [1])
    assert found.compute().standard_error.isnan().all()


# The result


def scores(rows):
    values = torch.tensor(rows, dtype=torch.float64)
    return Importance(values, torch.full_like(values, 2.0), 16, "taylor", {"output": "probability"})


def test_ranking():
    found = scores([[3, 1, float("nan")], [2, 30, 40]])
    assert [(h.layer, h.head) for h in found.ranking()] == [(1, 2), (1, 1), (0, 0), (1, 0), (0, 1)]
    assert found.ranking()[0] == (1, 2, 40.0, 0.5)
    assert [(h.layer, h.head) for h in found.ranking("l2")][:3] == [(0, 0), (1, 2), (1, 1)]
    assert found.ranking("l2")[1].error == pytest.approx(0.5 / 2504**0.5)
    assert found.lowest(2) == [(0, 1), (1, 0)]
    assert found.lowest(0.4) == [(0, 1), (1, 0)]
    assert found.lowest(1.0) == [(0, 1), (1, 0), (0, 0), (1, 1), (1, 2)]
    assert found.lowest(0.0) == found.lowest(0) == []
    assert found.outside_top(1) == [(0, 1), (1, 0), (1, 1)]
    assert found.outside_top(0) == sorted(found.lowest(5))


def test_a_layer_of_zeros_is_normalised_to_zeros():
    assert scores([[0, 0], [3, 4]]).normalized("l2").tolist() == [[0, 0], [0.6, 0.8]]


@pytest.mark.parametrize("count", [-1, 6, 1.5, -0.1, True])
def test_no_such_number_of_heads(count):
    with pytest.raises(ValueError, match=r"a fraction from 0.0 to 1.0 or a number from 0 to 5, got"):
        scores([[3, 1, float("nan")], [2, 30, 40]]).lowest(count)


@pytest.mark.parametrize("k", [-1, 1.0, True])
def test_no_such_number_of_heads_a_layer(k):
    with pytest.raises(ValueError, match="whole number of at least 0"):
        scores([[1, 2]]).outside_top(k)


def test_unknown_normalisation():
    with pytest.raises(ValueError, match="Unknown normalisation 'l1'"):
        scores([[1, 2]]).ranking("l1")


def test_saved_and_loaded(tmp_path):
    found = scores([[3, 1 / 3, float("nan")], [2, 30, 1e-30]])
    again = Importance.load(found.save(tmp_path / "new" / "heads.json"))
    assert torch.equal(again.scores.nan_to_num(7), found.scores.nan_to_num(7))
    assert torch.equal(again.standard_deviation, found.standard_deviation)
    assert (again.examples, again.measure, again.settings) == (16, "taylor", {"output": "probability"})
    assert "NaN" not in (tmp_path / "new" / "heads.json").read_text()
    assert repr(again) == "Importance('taylor', 2 layers x 3 heads, 16 examples)"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "no saved importance"), ("[1]", "no saved importance"), ('{"version": 9}', "format version 9"),
     ('{"version": 1, "scores": [1], "standard_deviation": [1]}', "no saved importance"),
     ('{"version": 1, "scores": [[1, 2], [1]], "standard_deviation": [[1]]}', "no saved importance")],
)  # fmt: skip
def test_files_that_are_no_importance(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        Importance.load(tmp_path / "x.json")


def test_no_file_to_load(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Importance.load(tmp_path / "x.json")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        scores([[1, 2]]).save(tmp_path / "file" / "heads.json")


# Calls that cannot work


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"measure": "attatr"}, ValueError, "Unknown measure 'attatr'. Choose 'attattr'"),
        ({"measure": 3}, TypeError, "name or a Measure, got int"),
        ({"output": "loss"}, ValueError, "Unknown output 'loss'"),
        ({"target": "best"}, ValueError, "Unknown target 'best'"),
        ({"model": 3}, TypeError, "a transformers model or a function that runs one, got int"),
        ({"model": lambda ids: ids}, ValueError, "give the layers"),
        ({"model": torch.nn.Linear(2, 2)}, UnsupportedModelError, "no attention layer"),
    ],
)
def test_bad_settings(options, error, words):
    options = {"model": make(BERT), **options}
    with pytest.raises(error, match=re.escape(words)):
        HeadImportance(**options)


@pytest.mark.parametrize("make_measure", [lambda: AttAttr("mean"), lambda: Ablation("f1")])
def test_bad_settings_of_a_measure(make_measure):
    with pytest.raises(ValueError, match=r"Unknown (reduction|loses) .*\. Choose '"):
        make_measure()


@pytest.mark.parametrize(
    ("labels", "words"),
    [([0, 3, 1], "Example 1 of the batch has the label 3; the model's are 0 to 2"),
     ([0, -1, 1], "has the label -1"), ([0.5, 1, 1], "has the label 0.5"), ([0, 1], "Got 2 labels for 3 examples"),
     (None, "The batch has no labels")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["attattr", "taylor", "attention", "ablation"])
def test_labels_outside_the_model_s(labels, words, name, untouched):
    c = case(BERT, batch=3)
    found = HeadImportance(c.model, measure=name)
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)), pytest.raises(ValueError, match=re.escape(words)):
        found.update(batch_of(c), labels)
    with pytest.raises(ValueError, match="There are no examples"):
        found.compute()


def test_a_function_s_loss_is_not_known():
    c = case(BERT, batch=3)
    found = HeadImportance(c.forward, attention_layers(c.model), "ablation")
    with pytest.raises(ValueError, match="output='probability' or 'logit'"):
        found.update((c.inputs, c.mask), LABELS)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "random"])
def test_a_model_that_drops_out_at_random(name):
    c = case(BERT, batch=3)
    with pytest.raises(ValueError, match=r"Call model.eval\(\) first"):
        importance(replace(c, model=c.model.train()), name)


def test_measures_that_are_not_finite():
    class Broken(Measure):
        name = "broken"

        def scores(self, examples):
            return [torch.full((3, 4), float("nan")) for _ in examples.layers]

    with pytest.raises(ValueError, match="'broken' is NaN or infinite for heads of layer 0"):
        importance(case(BERT, batch=3), Broken())


def test_layers_that_the_model_does_not_run():
    c = case(BERT, batch=3)
    other = attention_layers(make(BERT))
    found = HeadImportance(c.model, [*attention_layers(c.model), other[0]], "taylor")
    with pytest.raises(ValueError, match="never reaches the attention of 1 of the 4 layers"):
        found.update(batch_of(c), LABELS)


@pytest.mark.parametrize("batch", [3, "text", (), {"text": ["a"]}, (torch.tensor(1),)])
def test_batches_that_hold_no_tensors(batch):
    with pytest.raises(TypeError, match="A batch must hold tensors"):
        HeadImportance(make(BERT), measure="taylor").update(batch, [0])
