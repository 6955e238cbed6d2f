"""The interface of removals: run the model on some examples without some of their features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

Scores = Tensor | Sequence[Tensor]
Done = Callable[[int], object]
"""Told how many rows were run, for a progress bar; the default, ``id``, does nothing."""

# Maximum number of features, over all rows, that are prepared at a time: 64 MB.
_MOST_FEATURES = 2**26


class Removal(ABC):
    """The output as a function of the kept features, for B examples with N features each, in a fixed order.

    Attributes:
        removable: (B, N) bool: features that may be removed. Special tokens and padding stay.
    """

    removable: Tensor

    @abstractmethod
    def flatten(self, scores: Scores) -> Tensor:
        """Flatten scores, in the shape of attributions, to (B, N).

        Raises:
            ValueError: The scores have another shape.
        """

    @abstractmethod
    def unflatten(self, values: Tensor) -> Any:
        """Invert :meth:`flatten`."""

    @abstractmethod
    def outputs(self, kept: Tensor, examples: Tensor, batch_size: int = 64, done: Done = id) -> Tensor:
        """Compute F of each row, (R,), with only the ``kept`` features.

        Args:
            kept: (R, N) bool.
            examples: (R,), the example of each row.
            batch_size: Maximum number of rows in one run of the model.
            done: Called with the number of rows after each run.
        """

    def run_rows(
        self, kept: Callable[[Tensor], Tensor], examples: Tensor, batch_size: int, title: str, show_progress: bool
    ) -> Tensor:
        """Compute F of many rows as :meth:`outputs` does; ``kept`` makes the masks of the rows with given indices."""
        part = max(batch_size, _MOST_FEATURES // self.removable.shape[1])
        found = []
        with tqdm(total=len(examples), desc=title, unit="run", disable=not show_progress) as bar:
            for rows in torch.arange(len(examples), device=examples.device).split(part):
                found.append(self.outputs(kept(rows), examples[rows], batch_size, bar.update))
        return torch.cat(found)

    def ranked_scores(self, scores: Scores) -> Tensor:
        """Flatten scores to (B, N) and check that the score of no removable feature is NaN."""
        flat = self.flatten(scores).detach().to(self.removable.device)
        if bool(torch.isnan(flat)[self.removable].any()):
            raise ValueError("The scores hold NaN, which cannot be ordered.")
        return flat


def expect_shape(tensor: Any, shape: Sequence[int], axes: str) -> Tensor:
    """Return the tensor if it has this shape.

    Raises:
        TypeError: It is no tensor.
        ValueError: It has another shape.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"Scores must be a tensor {axes}, got {type(tensor).__name__}.")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"Scores of shape {tuple(tensor.shape)}, expected {axes} = {tuple(shape)}.")
    return tensor
