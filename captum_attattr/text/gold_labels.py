"""Several gold labels an example: those of a text that has several, or one a token. F is the mean over them.

    F = 1 / |G| sum_{g in G} F_g

with F_g the probability (or logit) of a label that the text has, or at one place of the sequence of the label there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100
"""What stands where a place has no label, as in torch and transformers."""


@dataclass(frozen=True)
class GoldLabels:
    """Labels of B examples, several each.

    Args:
        weights: (B, N), what each label, or each place of the sequence, counts; they sum to 1 over an example.
        numbers: (B, N), the label at each place; None where the N are the labels themselves.
    """

    weights: Tensor
    numbers: Tensor | None = None

    @classmethod
    def from_rows(
        cls, rows: Tensor | None, shape: tuple[int, ...], inputs: Tensor, *, several: bool, following: bool
    ) -> GoldLabels:
        """Whichever these labels are.

        Args:
            rows: As :func:`rows_of` gives them.
            shape: Of an example's output.
            inputs: What the model reads.
            several: Whether a text may have several labels.
            following: See :meth:`from_token_labels`.

        Raises:
            ValueError: They do not fit the model's output.
        """
        if following and (len(shape) != 2 or rows is None):
            raise ValueError(
                "target='next' is for language models: outputs of each token (batch, tokens, words), and labels "
                "(batch, tokens), the tokens themselves."
            )
        assert rows is not None
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
        """From rows with a 1 for each label that a text has, and a 0 for the others, (B, count)."""
        if labels.shape[1:] != (count,) or not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(
                f"The labels of the batch have the shape {tuple(labels.shape)}, the model {count} labels: give one "
                "label an example, or a row of 0 and 1 for each, as many as there are labels."
            )
        return cls(_weights(labels == 1))

    @classmethod
    def from_token_labels(cls, labels: Tensor, count: int, inputs: Tensor, *, following: bool) -> GoldLabels:
        """From a label for each place of the sequence, (B, T), of 0 to ``count`` - 1.

        Args:
            labels: -100 where there is none.
            count: How many labels there are.
            inputs: What the model reads, to tell labels of places from the words to come.
            following: Whether the label of a place is what the output of the place before it is to say.
        """
        if labels.dim() != 2 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(
                f"The model gives outputs for each token; labels must be whole numbers, (examples, tokens), {NO_LABEL} "
                f"where there is none, or targets (token, label), one an example. Got {tuple(labels.shape)}, "
                f"{labels.dtype}."
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
                "The labels are the tokens that the model reads, as a language model's are: say that each is what the "
                "place before it is to say, HeadImportance(..., target='next')."
            )
        return cls(_weights(labels != NO_LABEL), labels.clamp(min=0))

    def average(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """The mean over the labels of each example, (rows,).

        Args:
            values: Something of each label, (rows, N), or of each label at each place, (rows, N, labels).
            rows: Which of the examples these are; all of them, in order, by default.
        """
        weights, numbers = (
            None if one is None else (one if rows is None else one[rows.to(one.device)]).to(values.device)
            for one in (self.weights, self.numbers)
        )
        assert weights is not None
        if values.shape[:2] != weights.shape:
            raise ValueError(
                f"The labels of the batch are for {weights.shape[1]} places, the model's output has the shape "
                f"{tuple(values.shape)}: give a label for each place."
            )
        if numbers is not None:
            values = values.gather(2, numbers.unsqueeze(2)).squeeze(2)
        return (values * weights.to(values.dtype)).sum(1)

    def folded(
        self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
        """The function of the inputs and these labels that gives F alone, (B,), and what it takes."""
        count = len(inputs)
        own = (self.weights,) if self.numbers is None else (self.weights, self.numbers)
        return lambda *given: GoldLabels(*given[count:]).average(function(*given[:count])), (*inputs, *own)


def _weights(there: Tensor) -> Tensor:
    """The same for all that are there, 1 together."""
    counts = there.sum(1, keepdim=True)
    if not bool((counts > 0).all()):
        place = int((counts == 0).flatten().nonzero()[0])
        raise ValueError(f"Example {place} of the batch has no label: leave out the examples without any.")
    return there.double() / counts


def rows_of(labels: Any) -> Tensor | None:
    """Labels of which an example has several, as a tensor with a row each; None for one label or target each.

    Raises:
        ValueError: The rows are not equally long, or hold something else than numbers.
    """
    if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], list):
        try:
            labels = torch.tensor(labels)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"Labels of which an example has several must be numbers, in rows equally long: {error}"
            ) from error
    labels = torch.as_tensor(labels) if hasattr(labels, "__array__") else labels
    return labels if isinstance(labels, Tensor) and labels.dim() > 1 else None
