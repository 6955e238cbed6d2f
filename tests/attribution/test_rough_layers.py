"""The lowest layers that make the joint path rough."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_agree
from rough_models import sink_model
from tiny_classifiers import demo
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers, explain, rough_layers


def test_a_smooth_model_has_none():
    c = case(FAMILIES[0])
    layers = attention_layers(c.model)
    assert rough_layers(c.forward, layers, c.inputs, target=1, additional_forward_args=c.mask) == []


def test_the_lowest_layer_of_a_model_with_a_sink():
    c = sink_model(seed=1)
    layers = attention_layers(c.model)
    how = {"target": 1, "additional_forward_args": c.mask, "tolerance": 1e-3}
    assert rough_layers(c.forward, layers, c.inputs, n_steps=24, **how) == layers[:1]
    assert rough_layers(c.forward, layers[::-1], c.inputs, n_steps=24, **how) == layers[:1]
    method = SelfAttentionAttribution(c.forward, layers[1:], path="joint")
    attributions, delta = method.attribute(c.inputs, n_steps=24, return_convergence_delta=True, **how)
    assert bool(method.convergence.converged.all())
    norm = torch.stack([layer.flatten(1).norm(dim=1) for layer in attributions]).norm(dim=0)
    assert bool((delta.abs() <= 1e-3 * norm + 1e-9).all())


def test_where_no_path_converges_all_are_rough():
    c = sink_model()
    layers = attention_layers(c.model)
    assert rough_layers(c.forward, layers, c.inputs, 1, c.mask, tolerance=1e-9, n_steps=1) == layers


def test_explain_leaves_them_at_their_own_attention_and_says_so():
    tokenizer = demo()[1]
    model = sink_model(seed=1, tokens=len(tokenizer)).model.float()
    settings = {"path": "joint", "tolerance": 1e-3, "n_steps": 24}
    with pytest.warns(
        UserWarning, match=r"lowest layers \(0\) did not converge within n_steps=24: they keep their own attention"
    ):
        explanation = explain("A warm, funny film.", model, tokenizer, **settings)
    assert explanation.layers == [1, 2]
    assert abs(float(explanation.delta.sum())) < 1e-3
    alone = explain("A warm, funny film.", model, tokenizer, layers=[1, 2], **settings)
    assert_agree(explanation.attributions, alone.attributions)
    with pytest.warns(UserWarning, match=r"lowest layers \(0\)"):
        listed = explain("A warm, funny film.", model, tokenizer, layers=[2, 0, 1], **settings)
    assert listed.layers == [2, 1]
    assert_agree(listed.attributions, alone.attributions.flip(0))
