"""Runs of the forward function with as many rows (an example at a step of the path each) as fit memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from captum_attattr.engine.memory import is_out_of_memory
from captum_attattr.engine.warned import warn

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
        done: Called with the number of evaluations after each run.
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

    def run(self, job: Callable[[slice], T], row_bytes: int, rows: int, worth: int = 1) -> Iterator[T]:
        """Yield the results of ``job`` for one range of rows after the other.

        A range that does not fit memory is halved, down to one row, and later ranges are as small from the start. A job
        must have no side effects, as it may fail and be called again.

        Args:
            job: Runs the forward function on a range of the rows.
            row_bytes: Memory that a row keeps, as far as it is known.
            rows: Number of rows.
            worth: Number of evaluations that a row counts for.

        Raises:
            MemoryError: A single row does not fit.
        """
        start, most = 0, self._rows(row_bytes)
        while start < rows:
            some = slice(start, min(start + most, rows))
            count = some.stop - some.start
            try:
                result = job(some)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if count == 1:
                    raise MemoryError(_ADVICE) from error
            else:
                start = some.stop
                yield result
                self.done(worth * count)
                continue
            # Only here the error is gone, and with it the tensors that its frames held.
            self._release()
            most = count // 2
            self._most_bytes = max(row_bytes, 1) * most

    def _rows(self, row_bytes: int) -> int:
        most = self._most_rows or max(1, self._budget() // max(row_bytes, 1))
        return most if self._most_bytes is None else max(1, min(most, self._most_bytes // max(row_bytes, 1)))

    def _release(self) -> None:
        gc.collect()  # a frame and its error may refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
