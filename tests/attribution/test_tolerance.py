"""Tolerance: the accuracy that was asked for, for as few evaluations as that takes, each example by itself."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from oracles import direct_attribution
from rough_models import graded_gauss, post_norm_model, sink_model
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.demo import load_demo, load_reviews

KINKED = {"distilbert"}  # its head has a ReLU
SMOOTH = [family for family in FAMILIES if family.name not in KINKED]
BERT = FAMILIES[0]


def relative_errors(ours, exact):
    """(layer, example)."""
    return torch.stack([(a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1) for a, b in zip(ours, exact)])


@cache
def fixed(family, path, batch, n_steps, method="gausslegendre"):
    """Attributions and deltas by a fixed rule that is as good as exact; several tests need the same."""
    c = case(family, batch=batch)
    how = {"target": 1, "additional_forward_args": c.mask, "n_steps": n_steps, "method": method}
    return method_of(c, path).attribute(c.inputs, return_convergence_delta=True, **how)


def method_of(c, path="layerwise", **options):
    return SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path, **options)


@pytest.fixture(scope="module")
def demo():
    model, tokenizer = load_demo()
    reviews = sorted((text for text, _ in load_reviews()[:16]), key=len)  # those of like length in one batch
    return model, tokenizer(reviews, return_tensors="pt", padding=True)


@pytest.mark.parametrize("output", ["probability", "logit"])
@pytest.mark.in_turn
def test_on_trained_weights_it_keeps_its_word_in_a_handful_of_evaluations(demo, output):
    model, batch = demo

    def forward(ids, mask):
        logits = model(ids, attention_mask=mask).logits
        return logits.softmax(-1) if output == "probability" else logits

    method = SelfAttentionAttribution(forward, attention_layers(model))
    errors, evaluations = [], []
    for some in range(0, 8, 4):
        ids, mask = batch["input_ids"][some : some + 4], batch["attention_mask"][some : some + 4]
        mask = mask[:, : int(mask.sum(1).max())]
        ids = ids[:, : mask.shape[1]]
        target = model(ids, attention_mask=mask).logits.argmax(-1)
        how = {"target": target, "additional_forward_args": mask}
        found = method.attribute(ids, tolerance=0.01, **how)
        evaluations.append(method.convergence.evaluations)
        assert bool(method.convergence.converged.all())
        assert bool((method.convergence.gap < 0.01 + 1e-4).all())
        exact = method.attribute(ids, n_steps=12, **how)  # off by 1e-5 at most
        errors.append(relative_errors(found, exact))
    errors, evaluations = torch.cat(errors, 1), torch.cat(evaluations, 1).double()
    assert errors.max() < 2e-2
    assert (errors < 1e-2).double().mean() > 0.99
    cost = torch.tensor([6 - layer - 0.25 for layer in range(6)], dtype=torch.float64)
    assert evaluations.mean(1) @ cost / cost.sum() < 5
    assert len(set(evaluations.flatten().tolist())) > 1, "some pairs need more than others"


@pytest.mark.parametrize("family", SMOOTH, ids=lambda family: family.name)
@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.in_turn
def test_true_errors_in_every_family(family, path, tolerance):
    c = case(family, batch=3)
    method = method_of(c, path)
    how = {"target": 1, "additional_forward_args": c.mask}
    found, delta = method.attribute(c.inputs, tolerance=tolerance, n_steps=200, return_convergence_delta=True, **how)
    reached = method.convergence
    exact, fixed_delta = fixed(family, path, 3, 100)
    if path == "joint":
        assert delta.shape == fixed_delta.shape == (3,)
        found, exact = ([torch.stack(one).transpose(0, 1)] for one in (found, exact))
    assert relative_errors(found, exact).max() < 3 * tolerance
    assert bool(reached.converged.all())
    assert reached.evaluations.shape == reached.gap.shape == (1 if path == "joint" else 3, 3)


@pytest.mark.filterwarnings("ignore:n_steps=")
@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_a_kink_on_the_path_is_noticed(path, tolerance):
    """No rule of high degree converges quickly there: panels around it get small, and what is left over is said."""
    (family,) = (family for family in FAMILIES if family.name in KINKED)
    c = case(family, batch=2)
    method = method_of(c, path)
    how = {"target": 1, "additional_forward_args": c.mask}
    found = method.attribute(c.inputs, tolerance=tolerance, n_steps=100, **how)
    converged = method.convergence.converged
    exact, _ = fixed(family, path, 2, 500, "riemann_middle")
    if path == "joint":
        found, exact = ([torch.stack(one).transpose(0, 1)] for one in (found, exact))
    errors = relative_errors(found, exact)
    assert errors[converged].max() < tolerance
    assert bool(converged.all()) or tolerance == 1e-3


def test_rows_that_were_run_are_the_evaluations_that_are_reported(monkeypatch):
    c = case(BERT, batch=3)
    method = method_of(c)
    method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-3)  # checked once
    run = []
    forward = c.model.forward

    def counting(ids, **options):
        run.append((torch.is_grad_enabled(), len(ids)))
        return forward(ids, **options)

    monkeypatch.setattr(c.model, "forward", counting)
    method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-3)
    with_gradients = sum(rows for gradients, rows in run if gradients)
    assert with_gradients == 3 + int(method.convergence.evaluations.sum())  # 3: one pass for all layers together
    without = [rows for gradients, rows in run if not gradients]
    assert sum(without) == 3 * (1 + 1 + 3)  # the clean pass, which rows are read, without each layer's attention


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_an_example_is_done_as_well_in_company(path):
    c = case(BERT, batch=3, padded=False)
    together = method_of(c, path)
    found = together.attribute(c.inputs, target=1, tolerance=1e-5, n_steps=60)
    for row in range(3):
        alone = method_of(c, path)
        own = alone.attribute(c.inputs[row : row + 1], target=1, tolerance=1e-5, n_steps=60)
        assert alone.convergence.evaluations[:, 0].tolist() == together.convergence.evaluations[:, row].tolist()
        for one, other in zip(own, found, strict=True):
            torch.testing.assert_close(one[0], other[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_too_few_steps_are_said(path):
    c = case(BERT)
    method = method_of(c, path)
    with pytest.warns(
        UserWarning,
        match=r"n_steps=2 did not suffice for tolerance=1e-09 on \d+ of \d+ paths .*"
        r"is (layers\[0\] \(BertSelfAttention\)|the joint path) \d.*Give more",
    ):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-9, n_steps=2)
    assert not bool(method.convergence.converged.all())
    assert int(method.convergence.evaluations.max()) <= 3


def test_nothing_is_said_when_they_suffice():
    c = case(BERT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method_of(c).attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-2, n_steps=200)


@pytest.mark.parametrize("baseline", ["uniform", 0.1, "inputs"])
@pytest.mark.parametrize("multiply", [True, False])
def test_with_other_baselines_and_as_mean_gradients(baseline, multiply):
    c = case(BERT, batch=3)
    method = method_of(c, multiply_by_inputs=multiply)
    start = {"baselines": torch.full_like(c.inputs, 6)} if baseline == "inputs" else {"attention_baselines": baseline}
    how = {"target": 1, "additional_forward_args": c.mask, **start}
    found = method.attribute(c.inputs, tolerance=1e-6, n_steps=200, **how)
    exact = method.attribute(c.inputs, n_steps=200, **how)
    assert relative_errors(found, exact).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_does_not_use_up_the_steps(demo, dtype):
    model, batch = load_demo(dtype=dtype)[0], demo[1]
    mask = batch["attention_mask"][:2]
    mask = mask[:, : int(mask.sum(1).max())]  # without the padding to the longest of all reviews
    ids = batch["input_ids"][:2, : mask.shape[1]]
    method = SelfAttentionAttribution(lambda i, m: model(i, attention_mask=m).logits, attention_layers(model))
    method.attribute(ids, target=1, additional_forward_args=mask, tolerance=0.01)
    assert bool(method.convergence.converged.all())
    assert method.convergence.evaluations.double().mean() < 5


def test_what_has_no_attribution_at_all_converges():
    c = case(BERT)
    method = SelfAttentionAttribution(lambda i, m: c.forward(i, m) * 0 + 1, attention_layers(c.model))
    found = method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=0.01)
    assert all(bool((layer == 0).all()) for layer in found)
    assert bool(method.convergence.converged.all())


@pytest.mark.parametrize("tolerance", [0, -0.1, 1, 1.5, float("nan"), True, "0.01"])
def test_tolerances_that_make_no_sense(tolerance):
    c = case(BERT)
    with pytest.raises(ValueError, match=r"tolerance must be a number between 0 and 1, such as 0.01, or None; got"):
        method_of(c).attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=tolerance)


def test_a_rule_of_one_s_own_beside_a_tolerance():
    c = case(BERT)
    with pytest.raises(ValueError, match="tolerance chooses the nodes itself: leave method='riemann_left' out"):
        method_of(c).attribute(c.inputs, target=1, tolerance=0.1, method="riemann_left")


def test_the_fixed_rule_reports_its_evaluations_and_gaps():
    c = case(BERT, batch=2)
    method = method_of(c)
    assert method.convergence is None
    _, deltas = method.attribute(
        c.inputs, target=1, additional_forward_args=c.mask, n_steps=5, return_convergence_delta=True
    )
    assert method.convergence.evaluations.tolist() == [[5, 5]] * 3
    assert method.convergence.converged is None
    torch.testing.assert_close(method.convergence.error, method.convergence.gap)
    assert bool((method.convergence.gap > 0).all()) == bool((torch.stack(deltas) != 0).all())
    gaps = method.convergence.gap
    method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=5)
    torch.testing.assert_close(method.convergence.gap, gaps)


def test_a_fixed_rule_that_was_not_enough_says_so_and_names_the_layers():
    c = sink_model()
    method = method_of(c)
    with pytest.warns(
        UserWarning, match=r"20 steps of this rule were not enough .*layers\[0\] \(LlamaAttention\) 1.\de-01"
    ) as warned:
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask)
    assert warned[0].filename == __file__  # the line of the caller, not one of the package
    assert method.convergence.complete.tolist() == [[True, False], [True, True], [True, True]]


@pytest.mark.parametrize("make", [sink_model, post_norm_model])
@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.in_turn
def test_rough_paths_converge_where_they_are_rough(make, path):
    """The right values by the oracle and a rule of hundreds of nodes, in a few dozen evaluations."""
    c = make()
    layers = attention_layers(c.model)
    method = method_of(c, path)
    found = method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-2)
    assert bool(method.convergence.converged.all())
    nodes, weights = graded_gauss(24, 8)  # off by 1e-5 at most
    forward = lambda: c.forward(c.inputs, c.mask)[:, 1]
    if path == "joint":
        exact, _ = direct_attribution(c.model, forward, layers, nodes=nodes, weights=weights)
        found, exact = ([torch.stack(one).transpose(0, 1)] for one in (found, exact))
    else:
        found, layers = found[:1], layers[:1]
        exact, _ = direct_attribution(c.model, forward, layers, nodes=nodes, weights=weights)
    assert relative_errors(found, exact).max() < 1e-2
    evaluations = method.convergence.evaluations
    assert 7 < int(evaluations.max()) < 100


def test_steps_bound_what_a_rough_path_takes():
    c = sink_model()
    method = method_of(c)
    with pytest.warns(UserWarning, match=r"n_steps=30 did not suffice .* layers\[0\] \(LlamaAttention\) \d.*Give more"):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-3, n_steps=30)
    reached = method.convergence
    assert int(reached.evaluations.max()) <= 30
    assert bool((reached.error >= reached.gap).all())
    assert bool((reached.error[~reached.converged] > 1e-3).all())


def test_a_bound_costs_nothing_before_it_is_used():
    c = case(BERT)
    method = method_of(c)
    method.attribute(c.inputs, target=1, additional_forward_args=c.mask, tolerance=1e-2, n_steps=10**9)
    assert int(method.convergence.evaluations.max()) < 30


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_rounding_of_a_large_output_does_not_loosen_the_tolerance(path):
    """Adding a constant changes no attribution: gaps of completeness get lost in its rounding, gradients do not."""
    (family,) = (family for family in FAMILIES if family.name in KINKED)
    c = case(family, batch=2)
    how = {"target": 1, "additional_forward_args": c.mask}
    exact, _ = fixed(family, path, 2, 500, "riemann_middle")

    def shifted(*inputs):
        return c.forward(*inputs) + 1e13

    method = SelfAttentionAttribution(shifted, attention_layers(c.model), path=path)
    found = method.attribute(c.inputs, tolerance=1e-3, n_steps=100, **how)
    if path == "joint":
        found, exact = ([torch.stack(one).transpose(0, 1)] for one in (found, exact))
    assert bool(method.convergence.converged.all())
    assert relative_errors(found, exact).max() < 2e-3  # estimated from gradients alone, which no gap confirms
