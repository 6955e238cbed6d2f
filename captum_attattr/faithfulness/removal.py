"""What every removal can do: run the model on some examples with some of their features taken away."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Scores = Tensor | Sequence[Tensor]
Done = Callable[[int], object]


class Removal(ABC):
    """The output as a function of which features are kept. B examples with N features each, in some fixed order.

    Attributes:
        removable: (B, N) bool: features that may be taken away. What is special or padding stays.
    """

    removable: Tensor

    @abstractmethod
    def flatten(self, scores: Scores) -> Tensor:
        """Scores in the shape that attributions have, as (B, N).

        Raises:
            ValueError: The shape is another one.
        """

    @abstractmethod
    def unflatten(self, values: Tensor) -> Any:
        """The inverse of :meth:`flatten`."""

    @abstractmethod
    def outputs(self, kept: Tensor, examples: Tensor, batch_size: int = 64, done: Done = id) -> Tensor:
        """F of each row, (R,), with only the ``kept`` features in place.

        Args:
            kept: (R, N) bool.
            examples: (R,) which example each row is of.
            batch_size: At most so many rows in one run of the model.
            done: Called with the number of rows after each run.
        """

    def ranked_scores(self, scores: Scores) -> Tensor:
        """Scores as (B, N), checked: a number wherever a feature may be taken away."""
        flat = self.flatten(scores).detach().to(self.removable.device)
        if bool(torch.isnan(flat)[self.removable].any()):
            raise ValueError("The scores hold NaN, which has no place in an order.")
        return flat


def expect_shape(tensor: Any, shape: Sequence[int], axes: str) -> Tensor:
    """The tensor, where it has this shape.

    Raises:
        TypeError: It is no tensor.
        ValueError: Its shape is another one.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"Scores must be a tensor {axes}, got {type(tensor).__name__}.")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"Scores of shape {tuple(tensor.shape)}, expected {axes} = {tuple(shape)}.")
    return tensor
