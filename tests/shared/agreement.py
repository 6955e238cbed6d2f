"""Equal but for rounding: where kernels, memory or threads are others, sums are added up in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

DIGITS = {torch.float64: 1e-12, torch.float32: 1e-6}


def assert_agree(
    ours: Tensor | Sequence[Tensor],
    expected: Tensor | Sequence[Tensor],
    *,
    digits: float | None = None,
    size: float | None = None,
) -> None:
    """Of one type and shape, and equal to so many digits of the largest number.

    Args:
        ours: A tensor, or several.
        expected: As many.
        digits: 1e-12 in float64 and 1e-6 in float32, unless what is compared was computed in a narrower type than it
            is kept in.
        size: Of the numbers that these are small differences of, such as F's where these are convergence deltas; else
            the largest number is taken.
    """
    if isinstance(ours, Tensor) and isinstance(expected, Tensor):
        ours, expected = [ours], [expected]
    for one, other in zip(ours, expected, strict=True):
        largest = float(other.detach().abs().nan_to_num().max()) if other.numel() else 0.0
        atol = (DIGITS[other.dtype] if digits is None else digits) * (largest if size is None else size)
        torch.testing.assert_close(one, other, rtol=0, atol=atol, equal_nan=True)


def assert_alike(ours: Any, expected: Any) -> None:
    """Plain values as they stand in files: numbers that are not whole agree to 1e-6 of one, all else is equal."""
    if isinstance(expected, dict):
        assert list(ours) == list(expected)
        ours, expected = list(ours.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        for one, other in zip(ours, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-6)
    else:
        assert ours == expected
