"""Heads cut out: against models in which they reach nothing, made by hand."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import transformers as hf
from agreement import assert_agree
from heads_by_hand import without_heads
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import direct_attribution
from prunable import (
    BERT,
    BY_NAME,
    EMPTY,
    GROUPED,
    HEADS,
    families,
    implementations,
    pruned,
    run,
    same_weights,
    some_families,
    some_heads,
)
from snapshot import untouched
from tiny_models import FAMILIES, SMALL, Family, case

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers
from captum_attattr.attention import mask_heads, original_heads, remaining_heads
from captum_attattr.attention.backend import Backend
from captum_attattr.pruning import prune_heads, save_pruned

__all__ = ["untouched"]


@pytest.fixture(autouse=True)
def fused_kernels_that_need_heads(monkeypatch):
    """As on a GPU, where torch divides by the number of heads and Python ends: no layer without heads gets there."""
    kernel = torch.nn.functional.scaled_dot_product_attention

    def fussy(query, key, value, **options):
        assert 0 not in (query.shape[1], key.shape[1])
        return kernel(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fussy)


# Masked = pruned


@families
@implementations
@pytest.mark.parametrize("heads", [HEADS, EMPTY, {0: range(4), 1: range(4), 2: range(4)}], ids=str)
def test_pruned_equals_heads_that_reach_nothing(family, attention, heads, untouched):
    c = case(family, attention=attention)
    expected = run(without_heads(c, heads))
    assert (run(c) - expected).abs().max() > 1e-4
    with untouched(c.model, lambda: run(c)):
        p = pruned(c, heads)
    torch.testing.assert_close(run(p), expected, atol=1e-10, rtol=0)
    gone = {layer: set(cut) for layer, cut in heads.items()}
    left = [sorted({0, 1, 2, 3} - gone.get(layer, set())) for layer in range(3)]
    assert remaining_heads(p.model) == left
    assert remaining_heads(c.model) == [[0, 1, 2, 3]] * 3


@families
def test_pruned_equals_masked_in_single_precision(family):
    c = case(family, dtype=torch.float32)
    for heads in (HEADS, EMPTY):
        with mask_heads(c.model, heads):
            masked = run(c)
        torch.testing.assert_close(run(pruned(c, heads)), masked, atol=1e-6, rtol=0)


CASES = {name: case(BY_NAME[name]) for name in ("bert", "gpt2", "llama", "vit")}


@given(data=st.data(), name=st.sampled_from(sorted(CASES)))
@settings(max_examples=30, deadline=None)
def test_masked_equals_pruned_in_any_steps(data, name):
    """For any set of heads, cut in any number of steps, with heads given again."""
    c = CASES[name]
    units = [[0, 1], [2, 3]] if name in GROUPED else [[0], [1], [2], [3]]
    chosen = data.draw(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(units)), max_size=9))
    pairs = [(layer, head) for layer, unit in chosen for head in unit]
    p = replace(c, model=copy.deepcopy(c.model))
    for start in range(0, len(chosen), 3):
        step = {(layer, head) for layer, unit in chosen[start : start + 3] for head in unit}
        prune_heads(p.model, step)
    with mask_heads(c.model, set(pairs)):
        torch.testing.assert_close(run(p), run(c), atol=1e-10, rtol=0)
    if pairs:
        once = pruned(c, set(pairs)).model
        assert same_weights(once, p.model)
        assert once.config.captum_attattr_pruned_heads == p.model.config.captum_attattr_pruned_heads


def test_parameters_really_go():
    """One head of BERT: rows of three projections with their biases, columns of one; nothing else."""
    c = case(BERT)
    p = pruned(c, {1: [2]})
    assert c.model.num_parameters() - p.model.num_parameters() == 3 * (8 * 32 + 8) + 32 * 8
    layer = p.model.bert.encoder.layer[1].attention
    assert (layer.self.query.out_features, layer.output.dense.in_features) == (24, 24)
    assert (layer.self.num_attention_heads, layer.self.all_head_size) == (3, 24)
    assert repr(layer.self.query) == "Linear(in_features=32, out_features=24, bias=True)"


@some_families
def test_dtype_training_mode_and_frozen_weights_are_kept(name):
    model = case(BY_NAME[name], dtype=torch.bfloat16).model.train()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    before = {name: (p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()}
    modules = {name: module.training for name, module in model.named_modules()}
    prune_heads(model, EMPTY)
    assert {name: (p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()} == before
    assert {name: module.training for name, module in model.named_modules()} == modules


@some_families
@some_heads
def test_a_step_of_training(name, heads):
    """The weights that are left get the gradients that they get with the others out of reach, and a step works."""
    c = case(BY_NAME[name])
    p, by_hand = pruned(c, heads), without_heads(c, heads)
    for one in (p, by_hand):
        one.forward(one.inputs, one.mask)[:, 1].sum().backward()
    theirs = dict(by_hand.model.named_parameters())
    for parameter_name, parameter in p.model.named_parameters():
        other = theirs[parameter_name]
        if parameter.shape == other.shape and other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-9, rtol=0)
    before = run(p)
    torch.optim.AdamW(p.model.parameters(), lr=1e-2).step()
    assert (run(p) - before).abs().max() > 1e-4


def test_pruned_under_inference_mode_and_trained_outside():
    c = case(BERT)
    with torch.inference_mode():
        prune_heads(c.model, HEADS)
    c.forward(c.inputs, c.mask)[:, 1].sum().backward()
    assert c.model.bert.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 0


def test_a_pickled_model_without_heads_is_noticed_where_it_is_loaded(monkeypatch):
    pickled = pickle.dumps(pruned(case(BERT), EMPTY).model)
    monkeypatch.setattr(Backend, "without_heads", False)
    pickle.loads(pickled)
    assert Backend.without_heads


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_with_a_cache(name):
    """The first layer, by which caches count, may be the one without heads."""
    heads = {0: range(4), 2: [2, 3]}
    if name == "llama":
        build = lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=2))
        c = case(Family("llama lm", build, "decoder"), padded=False)
    else:
        c = case(BY_NAME[name], padded=False)
    p, options = pruned(c, heads).model, {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    p.generation_config.eos_token_id = c.model.generation_config.eos_token_id = None
    by_hand = without_heads(c, heads).model
    for cached in (True, False):
        assert torch.equal(
            p.generate(c.inputs, use_cache=cached, **options), by_hand.generate(c.inputs, use_cache=False, **options)
        )


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_keep_the_numbering(duplicate):
    c = case(BERT)
    p = pruned(c, {0: [0, 2]})
    twin = replace(c, model=duplicate(p.model))
    assert remaining_heads(twin.model)[0] == [1, 3]
    prune_heads(twin.model, {0: [3]})
    torch.testing.assert_close(run(twin), run(without_heads(c, {0: [0, 2, 3]})), atol=1e-10, rtol=0)


# The original numbering


def test_masks_on_a_pruned_model_take_the_original_numbers():
    c = case(BERT)
    p = pruned(c, {0: [0, 2], 1: range(4)})
    expected = run(without_heads(c, {0: [0, 2, 3], 1: range(4), 2: [1]}))
    with mask_heads(p.model, {0: [3], 2: [1]}):
        torch.testing.assert_close(run(p), expected, atol=1e-10, rtol=0)
    with mask_heads(p.model, {0: [2, 3], 1: [1], 2: [1]}):  # heads that are gone may be named
        torch.testing.assert_close(run(p), expected, atol=1e-10, rtol=0)
    with pytest.raises(
        ValueError, match=r"Layer 0 has no head 4: its heads are 0 to 3, numbered as before any pruning"
    ):
        mask_heads(p.model, {0: [4]})


def test_a_mask_stays_right_when_the_model_is_pruned_under_it():
    c = case(BERT)
    with mask_heads(c.model, {0: [3], 2: [1]}):
        p = replace(c, model=prune_heads(c.model, {0: [0, 2]}))
        masked = run(p)
    assert_agree(run(p), run(pruned(p, {0: [0]})))
    torch.testing.assert_close(masked, run(pruned(p, {0: [3], 2: [1]})), atol=1e-10, rtol=0)


def test_scores_at_the_places_of_the_original_heads():
    model = case(BERT).model
    layers = attention_layers(prune_heads(model, {0: [0, 2], 1: range(4)}))
    scores = [torch.rand(2, heads, 5, 5, dtype=torch.float64) for heads in (2, 0, 4)]
    first, second, third = original_heads(scores, layers)
    torch.testing.assert_close(first[:, [1, 3]], scores[0], atol=0, rtol=0)
    assert (first[:, [0, 2]] == 0).all()
    assert second.shape == (2, 4, 5, 5)
    assert (second == 0).all()
    assert third is scores[2]
    assert original_heads([torch.tensor([3, 4])], layers[:1], dim=0)[0].tolist() == [0, 3, 0, 4]
    with pytest.raises(ValueError, match="Got 2 tensors for 3 layers"):
        original_heads(scores[:2], layers)
    with pytest.raises(ValueError, match=r"Axis 1 of a tensor of shape \(2, 4, 5, 5\) holds 4 heads, the layer has 2"):
        original_heads(scores[::-1], layers)


def test_a_part_has_the_numbers_of_its_layers():
    c = case(BERT)
    prune_heads(c.model, {1: [0], 2: [1, 2]})
    assert remaining_heads(c.model.bert.encoder.layer[1:]) == [[1, 2, 3], [0, 3]]
    assert remaining_heads(c.model.bert) == [[0, 1, 2, 3], [1, 2, 3], [0, 3]]


# Attribution of pruned models


STEPS = 8  # of the rule, here and in the oracle


def attribute(c, path):
    return SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path).attribute(
        c.inputs, target=1, additional_forward_args=c.mask, n_steps=STEPS, return_convergence_delta=True
    )


@some_families
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_attribution_of_a_pruned_model(name, path):
    """That of the masked model, on the remaining heads; and the slow oracle's on the pruned model itself."""
    family = BY_NAME[name]
    c = case(family)
    p = pruned(c, HEADS)
    layers, forward = attention_layers(p.model), lambda: p.forward(p.inputs, p.mask)[:, 1]
    ours, delta = attribute(p, path)
    with mask_heads(c.model, HEADS):
        masked, masked_delta = attribute(c, path)
    groups = [layers] if path == "joint" else [[layer] for layer in layers]
    theirs = [
        attributions
        for group in groups
        for attributions in direct_attribution(p.model, forward, group, None, p.padding, n_steps=STEPS)[0]
    ]
    for one, other, oracle, heads in zip(ours, masked, theirs, remaining_heads(p.model)):
        assert one.shape[1] == len(heads)
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(one, other[:, heads], atol=family.digits, rtol=0)
        torch.testing.assert_close(one, oracle, atol=family.digits, rtol=0)
    torch.testing.assert_close(delta, masked_delta, atol=family.digits, rtol=0)


@some_families
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_attribution_where_a_layer_has_no_heads(name, path):
    family = BY_NAME[name]
    c = case(family)
    p = pruned(c, EMPTY)
    ours, delta = attribute(p, path)
    with mask_heads(c.model, EMPTY):
        masked, masked_delta = attribute(c, path)
    assert ours[1].shape[1] == 0
    for one, other, heads in zip(ours, masked, remaining_heads(p.model)):
        torch.testing.assert_close(one, other[:, heads], atol=family.digits, rtol=0)
    torch.testing.assert_close(delta, masked_delta, atol=family.digits, rtol=0)


# What cannot be pruned, and is left as it was


def test_groups_are_cut_whole(untouched):
    c = case(BY_NAME["llama"])
    message = (
        r"Heads of layer 1 share their keys and values in groups of 2: \(0, 1\), \(2, 3\). Only whole groups can be "
        r"cut, and \(2, 3\) would lose a part"
    )
    with untouched(c.model, lambda: run(c)), pytest.raises(ValueError, match=message):
        prune_heads(c.model, {0: [0, 1], 1: [0, 1, 3]})
    prune_heads(c.model, {1: [0, 1]})
    with pytest.raises(ValueError, match=r"groups of 2: \(2, 3\). Only whole groups can be cut, and \(2, 3\)"):
        prune_heads(c.model, {1: [0, 2]})
    prune_heads(c.model, {1: [0, 2, 3]})
    assert remaining_heads(c.model)[1] == []


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        ({3: [0]}, ValueError, "no layer 3"),
        ({1: [0, 4]}, ValueError, "Layer 1 has no head 4"),
        ([(0, 1), (1, 2), (0, 1)], ValueError, "Head 1 of layer 0 is given twice"),
        (torch.ones(2, 4, dtype=torch.bool), ValueError, r"\(layers, heads\) = \(3, 4\)"),
        ([[0.5, 1]], TypeError, "heads must be"),
    ],
    ids=str,
)
def test_bad_heads(heads, error, message, untouched):
    c = case(BERT)
    with untouched(c.model, lambda: run(c)), pytest.raises(error, match=message):
        prune_heads(c.model, heads)


def test_a_family_that_cannot_be_pruned(untouched):
    c = case(next(family for family in FAMILIES if family.name == "modernbert"))
    message = "cut out of ModernBertAttention.*but mask_heads can.*Prunable are BERT"
    with untouched(c.model, lambda: run(c)), pytest.raises(UnsupportedModelError, match=message):
        prune_heads(c.model, HEADS)


def test_another_class_under_a_known_name(untouched):
    """Subclasses may compute something else; so may classes of others that happen to be called the same."""
    c = case(BERT)
    layer = c.model.bert.encoder.layer[0].attention.self
    layer.__class__ = type("BertSelfAttention", (type(layer),), {})
    with untouched(c.model, lambda: run(c)), pytest.raises(UnsupportedModelError, match="cut out of BertSelfAttention"):
        prune_heads(c.model, {0: [1]})


def test_only_layers_that_lose_heads_must_be_known():
    config = hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    model = hf.BertModel(config).eval()
    kinds = [type(layer).__name__ for layer in attention_layers(model)]
    assert kinds[:2] == ["BertSelfAttention", "BertCrossAttention"]
    prune_heads(model, {0: [1]})
    with pytest.raises(UnsupportedModelError, match="BertCrossAttention"):
        prune_heads(model, {2: [1], 1: [1]})
    assert remaining_heads(model)[:3] == [[0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


def adapter(c):
    query = c.model.bert.encoder.layer[2].attention.self.query
    query.__class__ = type("LoraLinear", (torch.nn.Linear,), {})
    return "a LoraLinear, not a plain linear layer: merge adapters"


def reparametrised(c):
    torch.nn.utils.parametrizations.weight_norm(c.model.bert.encoder.layer[2].attention.output.dense)
    return "a ParametrizedLinear, not a plain"


def shared(c):
    blocks = c.model.bert.encoder.layer
    blocks[2].attention.self.key.weight = blocks[0].attention.self.key.weight
    return "share their weights"


def other_shape(c):
    c.model.bert.encoder.layer[2].attention.self.value = torch.nn.Linear(32, 48).double()
    return r"have \[32, 32, 48\] rows, where 4 heads of 8 dimensions.*need \[32, 32, 32\]"


@pytest.mark.parametrize("change", [adapter, reparametrised, shared, other_shape], ids=lambda change: change.__name__)
def test_layers_that_are_not_the_familys_own(change):
    c = case(BERT)
    message = change(c)
    before, record = copy.deepcopy(c.model.state_dict()), hasattr(c.model.config, "captum_attattr_pruned_heads")
    with pytest.raises(UnsupportedModelError, match=message):
        prune_heads(c.model, {0: [1], 2: [2]})
    after = c.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert record is hasattr(c.model.config, "captum_attattr_pruned_heads") is False
    assert remaining_heads(c.model)[0] == [0, 1, 2, 3]


def test_an_error_while_cutting_leaves_the_model_as_it_was(untouched, monkeypatch):
    c, calls = case(BERT), []
    own = torch.Tensor.index_select

    def fails_late(*args):
        calls.append(args)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("thrown by the test")
        return own(*args)

    with untouched(c.model, lambda: run(c)):
        monkeypatch.setattr(torch.Tensor, "index_select", fails_late)
        with pytest.raises(torch.OutOfMemoryError):
            prune_heads(c.model, HEADS)
        monkeypatch.undo()


def test_models_that_are_none_of_transformers():
    for model in ("bert", torch.nn.Linear(2, 2), case(BERT).model.bert.encoder):
        with pytest.raises(TypeError, match="needs a model of transformers"):
            prune_heads(model, {0: [0]})
        with pytest.raises(TypeError, match="needs a model of transformers"):
            save_pruned(model, "folder")
