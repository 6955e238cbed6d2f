"""Panels: their rules, their halves, and which of them are halved."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_attattr.engine.panels import SIZE, Panels, interpolatory


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=SIZE, max_size=SIZE, unique=True).filter(lambda x: min_step(x) > 1e-3))
def test_weights_are_exact_for_polynomials_through_the_points(alphas):
    nodes = torch.tensor([sorted(alphas)], dtype=torch.float64)
    weights = interpolatory(nodes)
    for degree in range(SIZE):
        exact = (nodes[:, -1] ** (degree + 1) - nodes[:, 0] ** (degree + 1)) / (degree + 1)
        size = float((weights.abs() * nodes**degree).sum())
        torch.testing.assert_close((weights * nodes**degree).sum(1), exact, rtol=0, atol=1e-10 * max(size, 1e-3))


def min_step(values):
    ordered = sorted(values)
    return min(above - below for below, above in pairwise(ordered))


def panels(errors, gaps):
    errors, gaps = (torch.tensor(values, dtype=torch.float64) for values in (errors, gaps))
    return Panels(torch.zeros(len(errors), SIZE, dtype=torch.long), errors, gaps)


def test_the_roughest_are_halved_until_the_rest_may_stay():
    found = panels([0.1, 3.0, 0.2, 2.0], [0.0] * 4)
    assert found.too_rough(1.0, 1.0).tolist() == [1, 3]
    assert found.too_rough(4.0, 4.0).tolist() == []


def test_a_feature_between_the_points_shows_in_the_gap():
    """The gradient is smooth at all points of the panel, and yet F rises by more than it tells."""
    found = panels([0.1, 0.1], [0.0, -2.0])
    assert found.too_rough(1.0, 1.0).tolist() == [1]
    assert panels([2.0, 0.1], [0.0, -3.0]).too_rough(1.0, 1.0).tolist() == [1, 0]


@pytest.mark.parametrize("gaps", [[0.4, 0.4, 0.4], [0.6, -0.5, 0.95]])
def test_gaps_of_one_sign_add_up(gaps):
    assert len(panels([0.0] * 3, gaps).too_rough(1.0, 1.0)) > 0
    assert len(panels([0.0] * 3, [0.6, -0.5, 0.2]).too_rough(1.0, 1.0)) == 0


def test_rounding_widens_gaps_only():
    found = panels([2.0, 0.1], [3.0, 0.1])
    assert found.too_rough(error=1.0, gap=10.0).tolist() == [0]
    assert found.too_rough(error=4.0, gap=10.0).tolist() == []
