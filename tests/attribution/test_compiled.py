"""Models that torch.compile made, and models that would run a second time for their gradient."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from snapshot import untouched
from tiny_classifiers import bert
from tiny_models import FAMILIES, SMALL, case

from captum_attattr import HeadImportance, SelfAttentionAttribution, UnsupportedModelError, attention_layers, explain
from captum_attattr.attention import mask_heads

__all__ = ["untouched"]

BERT = FAMILIES[0]


def logits(c, function, path="layerwise"):
    method = SelfAttentionAttribution(function, attention_layers(c.model), path=path)
    return method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=2)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_a_compiled_model_is_explained_as_the_original(path, untouched):
    c = case(BERT)
    compiled = torch.compile(c.model, backend="eager")
    assert attention_layers(compiled) == attention_layers(c.model)
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        torch.testing.assert_close(logits(c, compiled, path), logits(c, c.model, path), atol=0, rtol=0)
    function = torch.compile(lambda *inputs: c.forward(*inputs), backend="eager")
    torch.testing.assert_close(logits(c, function), logits(c, c.forward), atol=0, rtol=0)


def test_a_function_around_a_compiled_model_is_refused(untouched):
    c = case(BERT)
    compiled = torch.compile(c.model, backend="eager")
    with (
        untouched(c.model, lambda: c.forward(c.inputs, c.mask)),
        pytest.raises(UnsupportedModelError, match=r"runs a compiled model.*compiled\._orig_mod"),
    ):
        logits(c, lambda *inputs: compiled(*inputs).logits)


def test_explain_and_importance_take_a_compiled_model():
    model, tokenizer = bert()
    compiled = torch.compile(model, backend="eager")
    ours, theirs = (explain("A warm film.", one, tokenizer, target=1) for one in (compiled, model))
    torch.testing.assert_close(ours.attributions, theirs.attributions, atol=0, rtol=0)
    batch, scores = tokenizer(["A warm film."], return_tensors="pt"), []
    for one in (compiled, model):
        importance = HeadImportance(one)
        importance.update(batch, [1])
        scores.append(importance.compute().scores)
    assert torch.equal(*scores)


def test_heads_are_masked_in_a_compiled_model():
    """What was compiled for one layer, or before, is not to be run for another, or now: compiling takes its time."""
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**{**SMALL, "num_hidden_layers": 2})).eval()
    compiled, ids = torch.compile(model, backend="eager"), torch.arange(5, 12).unsqueeze(0)
    run = lambda model: model(ids).last_hidden_state.detach()
    clean = run(compiled)
    with mask_heads(model, {0: [1, 2]}):
        assert not torch.allclose(run(compiled), clean, atol=1e-3)
        torch.testing.assert_close(run(compiled), run(model), atol=1e-6, rtol=0)
    torch.testing.assert_close(run(compiled), clean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_gradient_checkpointing(path, untouched):
    c = case(BERT)
    for dropout in (m for m in c.model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    expected = logits(c, c.model, path)
    c.model.gradient_checkpointing_enable()
    torch.testing.assert_close(logits(c, c.model, path), expected, atol=0, rtol=0)  # in eval mode it does nothing
    c.model.train()
    with (
        untouched(c.model, lambda: c.forward(c.inputs, c.mask)),
        pytest.raises(
            ValueError, match=r"gradient checkpointing.*model\.eval\(\) or model\.gradient_checkpointing_dis"
        ),
    ):
        logits(c, c.model, path)
    c.model.gradient_checkpointing_disable()
    torch.testing.assert_close(logits(c, c.model, path), expected, atol=1e-12, rtol=0)
