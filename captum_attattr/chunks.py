"""Cuts evaluations (an example at a step each) into runs of the forward function that fit memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")

# Rows beyond this do not run faster on a CPU, and what they keep for their gradients leaves its caches.
_CPU_BYTES = 256 * 2**20
_GPU_SHARE = 0.5


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
            warnings.warn(
                f"internal_batch_size={most_rows} is smaller than the number of examples: going on with {batch_size}.",
                stacklevel=4,
            )
        self._most_rows = None if most_rows is None else max(most_rows, batch_size)

    def run(self, job: Callable[[slice], Result], row_bytes: int, rows: int, worth: int = 1) -> Iterator[Result]:
        """What ``job`` makes of each range of the rows, one after the other.

        Args:
            job: Runs the forward function on a range of the rows.
            row_bytes: Memory that a row takes.
            rows: How many there are.
            worth: Evaluations that a row counts for.
        """
        most = self._most_rows or max(1, self._budget() // max(row_bytes, 1))
        for start in range(0, rows, most):
            some = slice(start, min(start + most, rows))
            yield job(some)
            self.done(worth * (some.stop - some.start))

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
