"""Seconds and memory of work on a device."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch

from benchmarks.setup.timing import timed


@dataclass(frozen=True)
class Meter:
    """Measures work on a GPU, to its end there; on a CPU seconds alone."""

    device: str
    """Of torch: "cuda" or "cpu"."""
    repeats: int
    """Runs whose median is taken, after a first one that does not count."""
    patience: float
    """Seconds: a first run that takes more counts, and is not repeated."""

    def measure(self, work: Callable[[], object]) -> dict[str, float | None]:
        """Seconds, and the peak of the memory in MiB above what was taken before."""
        self._clear()
        before = self._mebibytes()
        once = self._seconds(work)
        runs = [once] if once > self.patience else [self._seconds(work) for _ in range(self.repeats)]
        peak = torch.cuda.max_memory_allocated() / 2**20 - before if self._graphics else None
        return {"seconds": statistics.median(runs), "mebibytes": peak}

    def fastest(self, work: Callable[[int], object], sizes: Iterable[int]) -> tuple[int, float]:
        """The size with which the work takes least time, of those that fit memory, and its seconds."""
        smallest, *larger = sorted(sizes)
        self._seconds(partial(work, smallest))  # a first call does not count
        seconds = {smallest: self._seconds(partial(work, smallest))}
        for size in larger:
            try:
                seconds[size] = self._seconds(partial(work, size))
            except torch.OutOfMemoryError:
                break
        return min(seconds.items(), key=itemgetter(1))

    @property
    def _graphics(self) -> bool:
        return self.device == "cuda"

    def _seconds(self, work: Callable[[], object]) -> float:
        def done() -> None:
            work()
            if self._graphics:
                torch.cuda.synchronize()

        return timed(done)[0]

    def _clear(self) -> None:
        """Give memory back that nothing holds any more: a method may take as much as it finds free."""
        gc.collect()
        if self._graphics:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _mebibytes(self) -> float:
        return torch.cuda.memory_allocated() / 2**20 if self._graphics else 0.0
