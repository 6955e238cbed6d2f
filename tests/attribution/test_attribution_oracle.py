"""Every fast path against the slow oracle, in float64."""

from __future__ import annotations

import pytest
import torch
from oracles import clean_attention, direct_attribution
from tiny_models import FAMILIES, case
from tried import configuration

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.quadrature import METHODS, quadrature

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
BERT = FAMILIES[0]
STEPS = 8  # of both: they agree in each, not only in their sum to the end


def fast(c, layers, path="layerwise", **options):
    method = SelfAttentionAttribution(c.forward, layers, path=path)
    options = {"target": 1, "n_steps": STEPS, **options}
    return method.attribute(c.inputs, additional_forward_args=c.mask, return_convergence_delta=True, **options)


def slow(c, layers, baselines=None, n_steps=STEPS, method="gausslegendre", target=1):
    configuration(c.model.config.model_type, len(layers), method, baselines is None)
    nodes, weights = quadrature(method, n_steps)
    forward = lambda: c.forward(c.inputs, c.mask)[:, target]
    return direct_attribution(c.model, forward, layers, baselines, c.padding, nodes, weights)


def assert_close(ours, theirs, tolerance=1e-9):
    scale = theirs.abs().max()
    assert scale > 1e-6, "a case in which attention does not matter proves nothing"
    assert (ours - theirs).abs().max() < tolerance * scale


@families
@pytest.mark.parametrize("batch", [1, 3])
def test_layerwise_equals_the_direct_computation(family, batch):
    c = case(family, batch=batch)
    layers = attention_layers(c.model)
    attributions, deltas = fast(c, layers)
    for layer, ours, delta in zip(layers, attributions, deltas, strict=True):
        (theirs,), difference = slow(c, [layer])
        assert_close(ours, theirs, family.digits)
        torch.testing.assert_close(delta, theirs.flatten(1).sum(1) - difference, atol=family.digits, rtol=0)


@families
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_joint_equals_the_direct_computation(family, attention):
    c = case(family, attention=attention)
    layers = attention_layers(c.model)
    attributions, delta = fast(c, layers, path="joint")
    theirs, difference = slow(c, layers)
    for ours, direct in zip(attributions, theirs, strict=True):
        assert_close(ours, direct, family.digits)
    torch.testing.assert_close(delta, sum(t.flatten(1).sum(1) for t in theirs) - difference, atol=family.digits, rtol=0)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("method", METHODS)
def test_every_rule(path, method):
    c = case(BERT)
    layer = attention_layers(c.model)[1]
    ours, _ = fast(c, layer, path=path, method=method, n_steps=5)
    (theirs,), _ = slow(c, [layer], method=method, n_steps=5)
    assert_close(ours, theirs)


@families
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_uniform_baseline(family, path):
    c = case(family)
    layers = attention_layers(c.model)[1:]
    clean = clean_attention(c.model, lambda: c.forward(c.inputs, c.mask), layers)
    uniform = [(a > 0).double() / (a > 0).sum(-1, keepdim=True) for a in clean]
    check_baselines(c, layers, path, uniform, family.digits, attention_baselines="uniform")


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("form", ["number", "tensor", "a tensor of one number", "list"])
def test_explicit_baselines(path, form):
    c = case(BERT, padded=False)
    layers = attention_layers(c.model)
    shape = (2, 4, 7, 7)
    baselines = {
        "number": torch.full(shape, 0.2, dtype=torch.float64),
        "a tensor of one number": torch.tensor(0.2, dtype=torch.float64),
        "tensor": torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0)).double(),
        "list": [torch.full(shape, 0.1 * i, dtype=torch.float64) for i in range(3)],
    }[form]
    given = 0.2 if form == "number" else baselines
    each = baselines if form == "list" else [baselines] * 3
    check_baselines(c, layers, path, each, attention_baselines=given)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_input_baselines(path):
    c = case(BERT)
    layers = attention_layers(c.model)
    other = torch.full_like(c.inputs, 3)
    starts = clean_attention(c.model, lambda: c.forward(other, c.mask), layers)
    check_baselines(c, layers, path, starts, baselines=3)
    check_baselines(c, layers, path, starts, baselines=other)
    check_baselines(c, layers, path, starts, baselines=other[:1])


def check_baselines(c, layers, path, starts, digits=1e-9, **options):
    attributions, _ = fast(c, layers, path=path, **options)
    groups = [list(range(len(layers)))] if path == "joint" else [[i] for i in range(len(layers))]
    for group in groups:
        theirs, _ = slow(c, [layers[i] for i in group], [starts[i] for i in group])
        for i, direct in zip(group, theirs, strict=True):
            assert_close(attributions[i], direct, digits)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 64])
def test_chunks_change_nothing(path, rows, recwarn):
    c = case(BERT, batch=2)
    layers = attention_layers(c.model)
    whole, _ = fast(c, layers, path=path)
    parts, _ = fast(c, layers, path=path, internal_batch_size=rows)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=1e-9)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_examples_are_split_where_memory_is_short(path, monkeypatch):
    c = case(BERT, batch=3)
    layers = attention_layers(c.model)
    whole, deltas = fast(c, layers, path=path)
    monkeypatch.setattr("captum_attattr.engine.chunks._CPU_BYTES", 1)
    rows = []
    forward = c.model.forward
    monkeypatch.setattr(c.model, "forward", lambda ids, **kw: rows.append(len(ids)) or forward(ids, **kw))
    parts, part_deltas = fast(c, layers, path=path)
    # The clean pass; one of another row; which rows are read; the lowest layer, with no gradient beside others and with
    # one by itself, and the shortest; whether rows of the batch meet.
    checks = [3, 1, 3, 9, 1, 1, 9]
    assert rows[: len(checks)] == checks
    assert set(rows[len(checks) :]) == {1}
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=1e-9)
    torch.testing.assert_close(deltas, part_deltas)


@families
def test_a_subset_in_any_order(family):
    c = case(family)
    layers = attention_layers(c.model)
    everything, _ = fast(c, layers)
    some, _ = fast(c, [layers[2], layers[0]])
    torch.testing.assert_close(some[0], everything[2])
    torch.testing.assert_close(some[1], everything[0])


def test_mean_gradients_without_the_factor():
    c = case(BERT)
    layer = attention_layers(c.model)[0]
    plain = SelfAttentionAttribution(c.forward, layer, multiply_by_inputs=False)
    gradients = plain.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=STEPS)
    (theirs,), _ = slow(c, [layer])
    (attention,) = clean_attention(c.model, lambda: c.forward(c.inputs, c.mask), [layer])
    assert not plain.multiplies_by_inputs
    assert_close(gradients * attention, theirs)


def test_whole_passes_where_a_block_keeps_state_aside():
    """A model whose upper blocks read what the lower ones left aside: replay must not be trusted."""
    c = case(BERT)
    layers = attention_layers(c.model)
    blocks = c.model.bert.encoder.layer
    memory = {}

    def leave(module, args, output):
        memory["aside"] = output[0] if isinstance(output, tuple) else output

    def read(module, args):
        return (args[0] + torch.tanh(memory["aside"][: len(args[0])]), *args[1:])

    # The hidden states of block 0 are added before block 2, by hooks that replaying block 2 alone would not run.
    handles = [blocks[0].attention.register_forward_hook(leave), blocks[2].register_forward_pre_hook(read)]
    try:
        with pytest.warns(UserWarning, match="whole passes"):
            ours, _ = fast(c, layers)
        for layer, one in zip(layers, ours, strict=True):
            (theirs,), _ = slow(c, [layer])
            assert_close(one, theirs)
    finally:
        for handle in handles:
            handle.remove()
