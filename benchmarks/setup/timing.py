"""Seconds of one call, and of several in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def timed(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> tuple[float, T]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = work(*args, **options)
    return time.perf_counter() - start, result


def turns(works: Mapping[str, Callable[[], object]], repeats: int) -> list[dict[str, float]]:
    """Seconds of each, once a turn, so that what slows the machine slows all; a first turn does not count."""
    return [{name: timed(work)[0] for name, work in works.items()} for _ in range(repeats + 1)][1:]


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each, over the turns."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
