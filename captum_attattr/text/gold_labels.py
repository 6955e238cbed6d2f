"""Gold labels of examples that have several: labels of a text, or one for each token. F is the mean over them.

    F = 1 / |G| sum_{g in G} F_g

with F_g the probability (or logit) of one of the text's labels, or of the label of one token at its position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100
"""The label of positions that have none, as in torch and transformers."""


@dataclass(frozen=True)
class GoldLabels:
    """The labels of B examples, several for each.

    Args:
        weights: (B, N), weight of each label, or of each position of the sequence; they sum to 1 for each example.
        numbers: (B, N), the label at each position; None if the N entries are the labels themselves.
    """

    weights: Tensor
    numbers: Tensor | None = None

    @classmethod
    def from_rows(
        cls, rows: Tensor | None, shape: tuple[int, ...], inputs: Tensor, *, several: bool, following: bool
    ) -> GoldLabels:
        """Make them from labels of texts or of tokens, whichever fit the model's output.

        Args:
            rows: As :func:`rows_of` returns them.
            shape: Shape of an example's output.
            inputs: The model's input.
            several: Whether a text may have several labels.
            following: See :meth:`from_token_labels`.

        Raises:
            ValueError: The labels do not fit the model's output.
        """
        if rows is None or (following and len(shape) != 2):
            raise ValueError(
                "target='next' is for language models: it needs outputs for each token (batch, tokens, words), and as "
                "labels the tokens themselves (batch, tokens)."
            )
        if len(rows) != len(inputs):
            raise ValueError(f"Got labels of {len(rows)} examples for {len(inputs)}: give one row each.")
        if len(shape) == 2:
            return cls.from_token_labels(rows, shape[1], inputs, following=following)
        if len(shape) == 1 and several:
            return cls.from_text_labels(rows, shape[0])
        raise ValueError(
            f"The labels of the batch have the shape {tuple(rows.shape)}, an example's output {shape}, and its labels "
            "exclude each other: give one label an example, or set model.config.problem_type = "
            "'multi_label_classification'."
        )

    @classmethod
    def from_text_labels(cls, labels: Tensor, count: int) -> GoldLabels:
        """Make them from rows (B, count) with a 1 for each label that a text has and a 0 for each other label."""
        if labels.shape[1:] != (count,) or not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(
                f"The labels of the batch have the shape {tuple(labels.shape)}, the model has {count} labels: give one "
                "label an example, or a row of 0 and 1 for each, as long as the number of labels."
            )
        return cls(_weights(labels == 1))

    @classmethod
    def from_token_labels(cls, labels: Tensor, count: int, inputs: Tensor, *, following: bool) -> GoldLabels:
        """Make them from a label, 0 to ``count`` - 1, for each position of the sequence, (B, T).

        Args:
            labels: The labels, -100 for none.
            count: Number of labels.
            inputs: The model's input, with which a language model's labels are recognised.
            following: Whether a label belongs to the output one position earlier, as in language models.
        """
        if labels.dim() != 2 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(
                f"The model gives outputs for each token; labels must be whole numbers, (examples, tokens), {NO_LABEL} "
                f"for none, or targets (token, label), one an example. Got {tuple(labels.shape)}, {labels.dtype}."
            )
        there = labels != NO_LABEL
        if not bool(((labels >= 0) & (labels < count) | ~there).all()):
            raise ValueError(f"Labels of tokens must be 0 to {count - 1}, or {NO_LABEL} for none.")
        if following:
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NO_LABEL)
        elif (
            inputs.shape == labels.shape
            and bool(there.any())
            and bool((inputs.to(labels.device) == labels)[there].all())
        ):
            raise ValueError(
                "The labels are the model's own input tokens, as for a language model: if each token is to be "
                "predicted from the position before it, use HeadImportance(..., target='next')."
            )
        return cls(_weights(labels != NO_LABEL), labels.clamp(min=0))

    def average(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute the mean over the labels of each example, (rows,).

        Args:
            values: A value for each label, (rows, N), or for each label at each position, (rows, N, labels).
            rows: The examples of these rows; all of them, in order, by default.
        """

        def own(tensor: Tensor) -> Tensor:
            return (tensor if rows is None else tensor[rows.to(tensor.device)]).to(values.device)

        weights = own(self.weights)
        if values.shape[:2] != weights.shape:
            raise ValueError(
                f"The labels of the batch are for {weights.shape[1]} positions, the model's output has the shape "
                f"{tuple(values.shape)}: give a label for each position."
            )
        if self.numbers is not None:
            values = values.gather(2, own(self.numbers).unsqueeze(2)).squeeze(2)
        return (values * weights.to(values.dtype)).sum(1)

    def folded(
        self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
        """Return a function that computes F, (B,), from the inputs and these labels, and its arguments."""
        count = len(inputs)
        own = (self.weights,) if self.numbers is None else (self.weights, self.numbers)
        return lambda *given: GoldLabels(*given[count:]).average(function(*given[:count])), (*inputs, *own)


def _weights(there: Tensor) -> Tensor:
    """Return equal weights for the labels that an example has, with sum 1."""
    counts = there.sum(1, keepdim=True)
    if not bool((counts > 0).all()):
        place = int((counts == 0).flatten().nonzero()[0])
        raise ValueError(f"Example {place} of the batch has no label: leave out the examples without any.")
    return there.double() / counts


def rows_of(labels: Any) -> Tensor | None:
    """Return labels, several for each example, as a tensor with a row an example; None for one label or target each.

    Raises:
        ValueError: The rows have different lengths, or hold something other than numbers.
    """
    if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], list):
        try:
            labels = torch.tensor(labels, device="cpu")
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"If an example has several labels, they must be numbers in rows of equal length: {error}"
            ) from error
    if hasattr(labels, "__array__") and not isinstance(labels, Tensor):
        labels = torch.as_tensor(labels, device="cpu")
    return labels if isinstance(labels, Tensor) and labels.dim() > 1 else None
