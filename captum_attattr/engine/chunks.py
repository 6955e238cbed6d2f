"""Cuts evaluations (an example at a step each) into runs of the forward function that fit memory, or else into less."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from captum_attattr.engine.memory import is_out_of_memory
from captum_attattr.engine.warned import warn

T = TypeVar("T")

# Rows beyond this do not run faster on a CPU, and what they keep for their gradients leaves its caches.
_CPU_BYTES = 256 * 2**20
_GPU_SHARE = 0.5

_ADVICE = (
    "One run of the model on a single row (an example at a step of the path), with what it keeps for its gradient, "
    "does not fit memory. Give fewer tokens, fewer examples at a time, or layers nearer to the output only (a run "
    "begins at the layer); keep less of the result with reduce=; or load the model in a narrower data type."
)


class Chunks:
    """How many rows a run of the forward function may have.

    Args:
        batch_size: Number of examples.
        most_rows: At most so many rows a run; None picks it by the memory that a row keeps for its gradient.
        device: Where the contexts lie.
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
        """What ``job`` makes of each range of the rows, one after the other.

        Where a range does not fit memory it is done by halves, down to one row, and later ones are cut smaller from the
        start. A job must leave nothing behind when it fails: what it gives is added up by the caller.

        Args:
            job: Runs the forward function on a range of the rows.
            row_bytes: Memory that a row keeps, as far as that is known.
            rows: How many there are.
            worth: Evaluations that a row counts for.

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
            # Here the error is gone, and what its frames held.
            self._release()
            most = count // 2
            self._most_bytes = max(row_bytes, 1) * most

    def _rows(self, row_bytes: int) -> int:
        most = self._most_rows or max(1, self._budget() // max(row_bytes, 1))
        return most if self._most_bytes is None else max(1, min(most, self._most_bytes // max(row_bytes, 1)))

    def _release(self) -> None:
        gc.collect()  # where a frame and its error hold each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
