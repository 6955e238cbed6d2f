"""Runs of the forward function with as many rows (an example at a step of the path each) as fit memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, takewhile
from typing import TypeVar

import torch

from captum_attattr.engine.memory import is_out_of_memory
from captum_attattr.warned import warn

T = TypeVar("T")

# More rows do not run faster on a CPU, as the tensors kept for their gradients no longer fit its caches.
_CPU_BYTES = 256 * 2**20
_GPU_SHARE = 0.5

_ADVICE = (
    "One run of the model on a single row (an example at a step of the path), with the tensors kept for its gradient, "
    "does not fit memory. Give fewer tokens, fewer examples at a time, or only layers nearer to the output (a run "
    "begins at the layer); keep less of the result with reduce=; or load the model in a narrower data type."
)


class Chunks:
    """The number of rows that a run of the forward function may have.

    Args:
        batch_size: Number of examples.
        most_rows: Maximum number of rows a run; None chooses it by the memory that a row keeps for its gradient.
        device: The device of the contexts.
        done: To be called with the number of evaluations after each run.
    """

    def __init__(
        self,
        batch_size: int,
        most_rows: int | None,
        device: torch.device,
        done: Callable[[int], object] = lambda rows: None,
    ) -> None:
        self._device, self.done = device, done
        if most_rows is not None and most_rows < batch_size:
            warn(f"internal_batch_size={most_rows} is smaller than the number of examples: going on with {batch_size}.")
        self._most_rows = None if most_rows is None else max(most_rows, batch_size)
        self._most_bytes: int | None = None

    def run(self, job: Callable[[slice], T], sizes: Sequence[int]) -> Iterator[T]:
        """Yield the results of ``job`` for one range of rows after the other.

        A range that does not fit memory is halved, down to one row, and later ranges are as small from the start. A job
        must have no side effects, as it may fail and be called again.

        Args:
            job: Runs the forward function on a range of the rows.
            sizes: The memory that each row keeps, as far as it is known.

        Raises:
            MemoryError: A single row does not fit.
        """
        start = 0
        while start < len(sizes):
            some = slice(start, start + self.fitting(sizes[start:]))
            try:
                result = job(some)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if some.stop - start == 1:
                    raise MemoryError(_ADVICE) from error
            else:
                start = some.stop
                yield result
                continue
            # Only here the error is gone, and with it the tensors that its frames held.
            self._release()
            self._most_bytes = max(sum(sizes[some]), some.stop - start) // 2

    def fitting(self, sizes: Sequence[int]) -> int:
        """Return how many of the first rows, of these sizes, one run may have: at least one."""
        most = self._budget() if self._most_rows is None else None
        if self._most_bytes is not None:
            most = self._most_bytes if most is None else min(most, self._most_bytes)
        if most is None:
            return min(len(sizes), self._most_rows or len(sizes))
        totals = accumulate(max(size, 1) for size in sizes)
        together = sum(1 for _ in takewhile(lambda total: total <= most, totals))
        return max(1, min(together, self._most_rows or together))

    def _release(self) -> None:
        gc.collect()  # a frame and its error may refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
