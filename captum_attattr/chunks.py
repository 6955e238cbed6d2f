"""Cuts (steps x examples) evaluations into runs of the forward function that fit memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch

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

    def of(self, row_bytes: int, examples: int, steps: int) -> Iterator[tuple[slice, slice]]:
        """Ranges of examples and of steps."""
        most = self._most_rows or max(1, self._budget() // max(row_bytes, 1))
        width = min(examples, most)
        length = max(1, most // width)
        for example in range(0, examples, width):
            for step in range(0, steps, length):
                yield slice(example, min(example + width, examples)), slice(step, min(step + length, steps))

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
