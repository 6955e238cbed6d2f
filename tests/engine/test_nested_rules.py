"""Nested rules: within their budget, and as exact as they should be."""

from __future__ import annotations

import math

import pytest
import torch

from captum_attattr.engine.nested_rules import nested_rules


@pytest.mark.parametrize("n_steps", [*range(1, 30), 1000])
def test_evaluations_stay_within_the_budget_and_nodes_within_the_path(n_steps):
    nested = nested_rules(n_steps)
    assert 0 < len(nested.nodes) - 1 <= min(n_steps, 7)
    assert nested.nodes[0] == 1
    assert bool(((nested.nodes > 0) & (nested.nodes <= 1)).all())
    assert len(set(nested.nodes.tolist())) == len(nested.nodes)
    assert [rule.count for rule in nested.rules] == sorted({rule.count for rule in nested.rules})
    assert nested.rules[-1].count == len(nested.nodes)


FUNCTIONS = {
    "exponential": (torch.exp, torch.exp),
    "saturating": (lambda a: 1 / torch.cosh(3 * a) ** 2, lambda a: torch.tanh(3 * a) / 3),
    "layer norm": (lambda a: (a**2 + 1) ** -1.5, lambda a: a / (a**2 + 1) ** 0.5),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_partial_and_whole_integrals(function):
    slope, integral = FUNCTIONS[function]
    nested, errors = nested_rules(60), []
    for rule in nested.rules:
        nodes = nested.nodes[: rule.count]
        ends = torch.cat([nodes, torch.ones(1, dtype=torch.float64)])
        exact = integral(ends) - integral(torch.zeros(1, dtype=torch.float64))
        errors.append(float((rule.partial @ slope(nodes) - exact).abs().max()))
        assert rule.weights @ slope(nodes) == pytest.approx(float(exact[-1]), abs=errors[-1])
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_the_second_rule_is_worth_its_nodes():
    """Nested, yet nearly as exact as a rule of as many free nodes would be: in t its degree is n + 2m - 1 = 11."""
    nested = nested_rules(20)
    nodes, count = nested.nodes, len(nested.nodes)
    t = nodes * 1.5 / (1 + 0.5 * nodes)
    weights = nested.rules[1].weights / (1.5 / (1 + 0.5 * (1 - t)) ** 2)
    for degree in range(12):
        assert weights @ t**degree == pytest.approx(1 / (degree + 1), abs=1e-12), (count, degree)
    assert not math.isclose(float(weights @ t**12), 1 / 13, abs_tol=1e-9)
