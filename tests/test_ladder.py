"""The growing rules: nested, within their budget, and as exact as they should be."""

from __future__ import annotations

import math

import pytest
import torch

from captum_attattr.ladder import ladder


@pytest.mark.parametrize("n_steps", [*range(1, 30), 64, 100, 333])
def test_evaluations_stay_within_the_budget_and_nodes_within_the_path(n_steps):
    chains = list(ladder(n_steps))
    spent = sum(len(chain.nodes) - 1 for chain in chains)
    assert 0 < spent <= n_steps
    for chain in chains:
        assert chain.nodes[0] == 1
        assert bool(((chain.nodes > 0) & (chain.nodes <= 1)).all())
        assert len(set(chain.nodes.tolist())) == len(chain.nodes)
        assert [rung.count for rung in chain.rungs] == sorted({rung.count for rung in chain.rungs})
        assert chain.rungs[-1].count == len(chain.nodes)
    assert [chain.rungs[-1].count for chain in chains] == sorted(chain.rungs[-1].count for chain in chains)


FUNCTIONS = {
    "exponential": (torch.exp, torch.exp),
    "saturating": (lambda a: 1 / torch.cosh(3 * a) ** 2, lambda a: torch.tanh(3 * a) / 3),
    "layer norm": (lambda a: (a**2 + 1) ** -1.5, lambda a: a / (a**2 + 1) ** 0.5),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_partial_and_whole_integrals(function):
    slope, integral = FUNCTIONS[function]
    for chain in ladder(60):
        errors = []
        for rung in chain.rungs:
            nodes = chain.nodes[: rung.count]
            ends = torch.cat([nodes, torch.ones(1, dtype=torch.float64)])
            exact = integral(ends) - integral(torch.zeros(1, dtype=torch.float64))
            errors.append(float((rung.partial @ slope(nodes) - exact).abs().max()))
            assert rung.weights @ slope(nodes) == pytest.approx(float(exact[-1]), abs=errors[-1])
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 10 ** -min(4, len(chain.nodes) / 2)


def test_the_second_rung_is_worth_its_nodes():
    """Nested, yet nearly as exact as a rule of as many free nodes would be: in t its degree is n + 2m - 1 = 11."""
    (chain, *_) = ladder(20)
    nodes, count = chain.nodes, len(chain.nodes)
    t = nodes * 1.5 / (1 + 0.5 * nodes)
    weights = chain.rungs[1].weights / (1.5 / (1 + 0.5 * (1 - t)) ** 2)
    for degree in range(12):
        assert weights @ t**degree == pytest.approx(1 / (degree + 1), abs=1e-12), (count, degree)
    assert not math.isclose(float(weights @ t**12), 1 / 13, abs_tol=1e-9)
