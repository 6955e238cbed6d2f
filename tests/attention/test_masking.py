"""Heads switched off: against models in which they reach nothing, made by hand; and what is left afterwards."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from agreement import assert_agree
from heads_by_hand import without_heads
from oracles import clean_attention, direct_attribution
from snapshot import untouched
from tiny_classifiers import bert
from tiny_models import FAMILIES, SMALL, Case, Family, case

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers, explain
from captum_attattr.attention import backend, mask_heads, remaining_heads

__all__ = ["untouched"]

BY_NAME = {family.name: family for family in FAMILIES}
BERT = BY_NAME["bert"]
HEADS = {0: [1], 2: [0, 3]}
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
some_families = pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit"])
implementations = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def run(c):
    with torch.no_grad():
        return c.forward(c.inputs, c.mask)


def assert_masked(c, heads, digits, inside=run, expected=None):
    """Inside a mask the output is that of the model without the heads, and another one than before."""
    expected = run(without_heads(c, heads)) if expected is None else expected
    assert (run(c) - expected).abs().max() > 1e-4, "a case in which the heads do not matter proves nothing"
    with mask_heads(c.model, heads):
        masked = inside(c)
    torch.testing.assert_close(masked, expected, atol=digits, rtol=0)


# What a mask does


@families
@implementations
@pytest.mark.parametrize("heads", [HEADS, {1: [0, 1, 2, 3]}, {0: range(4), 1: range(4), 2: range(4)}], ids=str)
def test_masked_equals_heads_that_reach_nothing(family, attention, heads, untouched):
    c = case(family, attention=attention)
    with untouched(c.model, lambda: run(c)):
        assert_masked(c, heads, family.digits)


def _albert():
    return hf.AlbertForSequenceClassification(hf.AlbertConfig(**SMALL, embedding_size=16, num_labels=3))


def _bart():
    small = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 60, "d_model": 32, "num_labels": 3}
    return hf.BartForSequenceClassification(hf.BartConfig(**sizes, **small, eos_token_id=2, pad_token_id=0))


def _t5():
    config = hf.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_labels=3)
    config.eos_token_id, config.decoder_start_token_id = 2, 0
    return hf.T5ForSequenceClassification(config)


def _gemma3():
    config = hf.Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=3, num_labels=3)
    return hf.Gemma3TextForSequenceClassification(config)


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (_albert, {0: [1, 2]}),
        (_bart, {0: [1], 2: [0, 3], 3: [2]}),
        (_t5, {0: [3], 2: [0, 1], 3: [2]}),
        (_gemma3, HEADS),
    ],
    ids=["shared weights", "encoder-decoder", "position bias", "gemma"],
)
@implementations
def test_layers_are_numbered_as_attention_layers_lists_them(build, heads, attention, untouched):
    c = case(Family("other", build), attention=attention, padded=False)
    inputs = torch.cat([c.inputs, torch.full((2, 1), 2)], 1)  # encoder-decoders classify at the end of the text
    c = Case(c.model, inputs, None)
    logits = lambda c: c.model(c.inputs).logits.detach()
    with untouched(c.model, lambda: logits(c)):
        expected = logits(without_heads(c, heads))
        with mask_heads(c.model, heads):
            masked = logits(c)
    assert (logits(c) - expected).abs().max() > 1e-4
    torch.testing.assert_close(masked, expected, atol=1e-6, rtol=0)


def test_every_form_of_heads():
    c = case(BERT)
    table = torch.zeros(3, 4, dtype=torch.bool)
    table[0, 1] = table[2, 0] = table[2, 3] = True
    pairs = [(2, 3), (0, 1), (2, 0)]
    forms = [HEADS, pairs, table, set(pairs), iter(pairs), np.array(pairs), torch.tensor(pairs).unbind()]
    expected = run(without_heads(c, HEADS))
    for form in forms:
        with mask_heads(c.model, form) as mask:
            assert mask.heads == HEADS
            torch.testing.assert_close(run(c), expected, atol=1e-9, rtol=0)


def test_no_heads_mask_nothing():
    c = case(BERT)
    clean = run(c)
    for nothing in ({}, [], {1: []}, torch.zeros(3, 4, dtype=torch.bool)):
        with mask_heads(c.model, nothing) as mask:
            assert mask.heads == {}
            assert_agree(run(c), clean)


def test_a_part_of_the_model_may_be_given():
    c = case(BERT)
    part = c.model.bert.encoder.layer[1:]
    expected = run(without_heads(c, {1: [0], 2: [1, 2]}))
    with mask_heads(part, {0: [0], 1: [1, 2]}):
        torch.testing.assert_close(run(c), expected, atol=1e-9, rtol=0)


def test_attention_that_is_given_out_is_zero():
    c = case(BERT, attention="eager")
    with mask_heads(c.model, HEADS), torch.no_grad():
        given = c.model(c.inputs, attention_mask=c.mask, output_attentions=True).attentions
    for layer, matrix in enumerate(given):
        masked = HEADS.get(layer, [])
        assert (matrix[:, masked] == 0).all()
        assert (matrix[:, [head for head in range(4) if head not in masked]].sum(-1) > 0.99).all()


def test_what_a_masked_head_computes_is_of_no_concern():
    """A head with overflowing values, say, in half precision: zero times infinity would be no zero."""
    c = case(BERT)
    expected = run(without_heads(c, {1: [2]}))
    with torch.no_grad():
        c.model.bert.encoder.layer[1].attention.self.value.bias[16:24] = torch.inf
    assert not run(c).isfinite().any()
    with mask_heads(c.model, {1: [2]}):
        torch.testing.assert_close(run(c), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(dtype):
    c = case(BERT, dtype=dtype)
    assert_masked(c, HEADS, 1e-2)
    with mask_heads(c.model, HEADS):
        assert run(c).dtype == dtype


# Training, and torch's modes


@implementations
def test_gradients_flow_past_masked_heads(attention):
    c = case(BERT, attention=attention)
    c.model.train()
    for dropout in (m for m in c.model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    by_hand = without_heads(c, HEADS)
    by_hand.forward(c.inputs, c.mask)[:, 1].sum().backward()
    with mask_heads(c.model, HEADS):
        c.forward(c.inputs, c.mask)[:, 1].sum().backward()
    for (name, ours), theirs in zip(c.model.named_parameters(), by_hand.model.parameters()):
        if "attention.output.dense.weight" in name:  # there a masked head gives nothing to be weighted
            layer = int(name.split(".")[3])
            columns = ours.grad.unflatten(1, (4, 8))
            kept = [head for head in range(4) if head not in HEADS.get(layer, [])]
            assert (columns[:, HEADS.get(layer, [])] == 0).all()
            torch.testing.assert_close(columns[:, kept], theirs.grad.unflatten(1, (4, 8))[:, kept], atol=1e-9, rtol=0)
        elif theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=0)


def test_masked_under_inference_mode_and_used_outside():
    c = case(BERT)
    with torch.inference_mode():
        mask = mask_heads(c.model, HEADS)
        inside = run(c).clone()
    with mask:
        outside = c.forward(c.inputs, c.mask)
        outside[:, 1].sum().backward()
    torch.testing.assert_close(outside, inside, atol=1e-12, rtol=0)


def test_generation_under_a_mask():
    c = case(BY_NAME["gpt2"], padded=False)
    c.model.generation_config.eos_token_id = None
    tokens = c.inputs
    with mask_heads(c.model, HEADS), torch.no_grad():
        generated = c.model.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0)
    by_hand = without_heads(c, HEADS).model
    for _ in range(5):
        tokens = torch.cat([tokens, by_hand(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, tokens)


# Nested


@implementations
def test_masks_nest(attention, untouched):
    c = case(BERT, attention=attention)
    outputs = {str(heads): run(without_heads(c, heads)) for heads in ({0: [1]}, {0: [1, 2], 2: [0]}, {0: [2], 2: [0]})}
    check = lambda heads: torch.testing.assert_close(run(c), outputs[str(heads)], atol=1e-9, rtol=0)
    with untouched(c.model, lambda: run(c)):
        with mask_heads(c.model, {0: [1]}):
            with mask_heads(c.model, {0: [1, 2], 2: [0]}):
                check({0: [1, 2], 2: [0]})
            check({0: [1]})
        first, second = mask_heads(c.model, {0: [1]}), mask_heads(c.model, {0: [2], 2: [0]})
        check({0: [1, 2], 2: [0]})
        first.remove()
        check({0: [2], 2: [0]})
        second.remove()


# With attribution


STEPS = 12  # of the rule, here and in the oracle


def attribute(c, path="layerwise", multiply_by_inputs=True, **options):
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), None, multiply_by_inputs, path=path)
    return method.attribute(
        c.inputs, target=1, additional_forward_args=c.mask, n_steps=STEPS, return_convergence_delta=True, **options
    )


def by_definition(c, heads, path, baselines=None):
    """The slow oracle on the model in which these heads reach nothing."""
    c = without_heads(c, heads)
    layers, forward = attention_layers(c.model), lambda: c.forward(c.inputs, c.mask)[:, 1]
    groups = [layers] if path == "joint" else [[layer] for layer in layers]
    starts = dict(zip(layers, baselines or [None] * len(layers)))
    attributions, differences = [], []
    for group in groups:
        begin = None if baselines is None else [starts[layer] for layer in group]
        ours, difference = direct_attribution(c.model, forward, group, begin, c.padding, n_steps=STEPS)
        attributions += ours
        differences.append(difference)
    return attributions, differences


@some_families
@implementations
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_attribution_of_a_masked_model(name, attention, path, untouched):
    family = BY_NAME[name]
    c = case(family, attention=attention)
    theirs, _ = by_definition(c, HEADS, path)
    with mask_heads(c.model, HEADS):
        ours, delta = attribute(c, path)
    for layer, (one, other) in enumerate(zip(ours, theirs)):
        assert other.abs().max() > 1e-6
        assert (one[:, HEADS.get(layer, [])] == 0).all()
        torch.testing.assert_close(one, other, atol=family.digits, rtol=0)
    for one in delta if path == "layerwise" else [delta]:
        assert one.abs().max() < 1e-5


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_no_baseline_brings_a_masked_head_back(path):
    c = case(BERT)
    layers = attention_layers(c.model)
    clean = clean_attention(c.model, lambda: c.forward(c.inputs, c.mask), layers)
    uniform = [(a > 0).double() / (a > 0).sum(-1, keepdim=True) for a in clean]
    theirs, _ = by_definition(c, HEADS, path, uniform)
    with mask_heads(c.model, HEADS):
        ours, _ = attribute(c, path, attention_baselines="uniform")
        gradients, _ = attribute(c, path, multiply_by_inputs=False)
    for layer, (one, other, gradient) in enumerate(zip(ours, theirs, gradients)):
        assert (one[:, HEADS.get(layer, [])] == 0).all()
        assert (gradient[:, HEADS.get(layer, [])] == 0).all()
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_a_mask_inside_the_forward_function(path):
    c = case(BERT)
    with mask_heads(c.model, HEADS):
        expected, _ = attribute(c, path)

    class Masked(Case):
        def forward(self, inputs, mask=None):
            with mask_heads(self.model, HEADS):
                return super().forward(inputs, mask)

    ours, _ = attribute(Masked(c.model, c.inputs, c.mask), path)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_the_attention_function_of_a_masked_model():
    c = case(BERT)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model))
    with mask_heads(c.model, HEADS):
        function = method.attention_function(c.inputs, c.mask)
        clean = run(c)
        for layer, matrix in enumerate(function.attention):
            assert (matrix[:, HEADS.get(layer, [])] == 0).all()
        put_in = [matrix.clone() for matrix in function.attention]
        for layer, heads in HEADS.items():
            put_in[layer][:, heads] = 0.3
        torch.testing.assert_close(function(*put_in), clean, atol=1e-9, rtol=0)


def test_explain_under_a_mask():
    model, tokenizer = bert()
    with mask_heads(model, {1: [0]}):
        explanation = explain("A warm, funny film.", model, tokenizer, target=1)
    assert (explanation.attributions[1][0] == 0).all()
    assert explanation.attributions[1][1].abs().max() > 0


# Undone


def test_a_lasting_mask(untouched):
    c = case(BERT)
    clean, masked = run(c), run(without_heads(c, HEADS))
    with untouched(c.model, lambda: run(c)):
        handle = mask_heads(c.model, HEADS)
        gc.collect()
        assert handle.active
        torch.testing.assert_close(run(c), masked, atol=1e-9, rtol=0)
        handle.remove()
        assert not handle.active
        assert torch.equal(run(c), clean)
        handle.remove()
        with pytest.raises(RuntimeError, match="removed before"), handle:
            pass


def test_a_mask_lasts_when_its_handle_is_dropped():
    c = case(BERT)
    masked = run(without_heads(c, HEADS))
    mask_heads(c.model, HEADS)
    gc.collect()
    torch.testing.assert_close(run(c), masked, atol=1e-9, rtol=0)
    assert backend.masks
    del c
    gc.collect()
    assert not backend.masks, "a mask keeps a model alive that nobody holds"


@implementations
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_undone_after_an_exception(attention, kind, untouched):
    c = case(BERT, attention=attention)

    def thrown(*_):
        raise kind("thrown by the test")

    with untouched(c.model, lambda: run(c)):
        hook = c.model.bert.encoder.layer[1].register_forward_hook(thrown)
        with pytest.raises(kind, match="thrown by the test"), mask_heads(c.model, HEADS):
            run(c)
        hook.remove()


def test_a_copy_of_a_masked_model_says_what_it_needs():
    c = case(BERT)
    clean = run(c)
    with mask_heads(c.model, HEADS):
        twin = replace(c, model=copy.deepcopy(c.model))
        with pytest.raises(RuntimeError, match=r"is a copy.*Copy the model before"):
            run(twin)
    assert_agree(run(twin), clean)


# Bad input


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        ({3: [0]}, ValueError, "no layer 3: the model's layers are 0 to 2"),
        ({-1: [0]}, ValueError, "no layer -1"),
        ({1: [4]}, ValueError, "Layer 1 has no head 4: its heads are 0 to 3"),
        ([(1, -1)], ValueError, "Layer 1 has no head -1"),
        ({1: [2, 2]}, ValueError, "Head 2 of layer 1 is given twice"),
        ([(1, 2), (0, 0), (1, 2)], ValueError, "Head 2 of layer 1 is given twice"),
        (torch.zeros(3, 5, dtype=torch.bool), ValueError, r"must be boolean, \(layers, heads\) = \(3, 4\).*\(3, 5\)"),
        (torch.zeros(3, 4), ValueError, "must be boolean.*float32"),
        ({0: 1}, TypeError, r"heads must be \{layer: \[heads\]\}.*got \{0: 1\}"),
        ([0, 1], TypeError, "heads must be"),
        ([(0, 1, 2)], TypeError, "heads must be"),
        ([(0.0, 1)], TypeError, "heads must be.*whole numbers"),
        ({"0": [1]}, TypeError, "heads must be"),
        ([(True, False)], TypeError, "heads must be"),
        (list(torch.ones(3, 2, dtype=torch.bool)), TypeError, "heads must be"),
        (np.ones((3, 2), dtype=bool), TypeError, "heads must be"),
        ("01", TypeError, "heads must be"),
        (["01"], TypeError, "heads must be"),
        (None, TypeError, "heads must be"),
        (3, TypeError, "heads must be"),
    ],
    ids=str,
)
def test_bad_heads(heads, error, message, untouched):
    c = case(BERT)
    with untouched(c.model, lambda: run(c)), pytest.raises(error, match=message):
        mask_heads(c.model, heads)


def test_a_tensor_where_layers_differ_in_heads():
    config = hf.BartConfig(
        vocab_size=60, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8,
    )  # fmt: skip
    model = hf.BartModel(config)
    assert remaining_heads(model) == [[0, 1, 2, 3], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"differ in their number of heads: give \{layer: \[heads\]\}"):
        mask_heads(model, torch.zeros(3, 4, dtype=torch.bool))


def test_models_that_cannot_be_masked(untouched):
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got str"):
        mask_heads("bert-base-uncased", {})
    with pytest.raises(UnsupportedModelError, match="no attention layer"):
        mask_heads(torch.nn.Linear(2, 2), {0: [0]})
    c = case(BERT)
    c.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="sdpa"):
        mask_heads(c.model, HEADS)
    assert not backend.masks


def test_a_layer_with_fewer_heads_than_it_should_have():
    """Cut by other means than prune_heads: which heads are left cannot be known."""
    c = case(BERT)
    layer = c.model.bert.encoder.layer[0].attention
    for name in ("query", "key", "value"):
        setattr(layer.self, name, torch.nn.Linear(32, 16).double())
    layer.output.dense = torch.nn.Linear(16, 32).double()
    with mask_heads(c.model, HEADS), pytest.raises(UnsupportedModelError, match="2 heads where 4 were expected"):
        run(c)


def test_copies_that_run_in_place_of_a_layer():
    """As DataParallel's: they would go unmasked."""
    c = case(BERT)
    layer = c.model.bert.encoder.layer[1].attention
    with mask_heads(c.model, {1: [1]}):
        run(c)
        layer.self = layer.self._replicate_for_data_parallel()
        with pytest.raises(UnsupportedModelError, match="DataParallel runs copies"):
            run(c)


def test_a_layer_that_does_not_say_how_many_heads_it_has():
    c = case(BY_NAME["llama"])
    layer = c.model.model.layers[0].self_attn
    layer.config = hf.PreTrainedConfig()
    with pytest.raises(UnsupportedModelError, match="The number of heads of a LlamaAttention"):
        mask_heads(c.model, {0: [0]})
