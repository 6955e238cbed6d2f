"""Rank correlation of two rankings of the same things."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's, of all entries; ties share their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    _, place, times = np.unique(np.asarray(values).ravel(), return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (times.cumsum() - (times - 1) / 2)[place]
    return ranks
