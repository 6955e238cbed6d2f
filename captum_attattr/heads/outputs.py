"""Batches in any supported form, as examples on which heads are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.arguments import all_or_each
from captum_attattr.attention import AttentionCall, Result, intercepted
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.text.gold_labels import GoldLabels, rows_of
from captum_attattr.text.model_output import Output


@dataclass(frozen=True)
class Examples:
    """A batch of B examples to measure heads on."""

    function: Callable[..., Any]
    """Called with the inputs in order; returns the logits of each example, or a model output with logits."""
    inputs: tuple[Tensor, ...]
    layers: list[nn.Module]
    """The attention layers, in the order of their calls; one that is called n times is listed n times."""
    output: Output
    labels: Any = None
    """The target of each example, in any of Captum's forms, or several labels; None for the predicted one."""

    def logits_of(self, *inputs: Tensor) -> Tensor:
        """Compute the logits, in float32 at least."""
        logits = self.function(*inputs)
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor):
            raise TypeError(f"The model must return logits or a tensor, got {type(logits).__name__}.")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def outputs_of(self, *inputs: Tensor) -> Tensor:
        """Compute F for every label."""
        return self.output.compute(self.logits_of(*inputs))

    def target(self, outputs: Tensor) -> Any:
        """Return the target: the output of each example that is F."""
        if self.labels is not None:
            return self.labels
        if outputs.dim() < 2:
            return None  # one number an example
        if self.output.regression and outputs.shape[-1] > 1:
            raise ValueError(
                "A regression model predicts none of its outputs: give labels, the number of the output to measure."
            )
        if outputs.dim() != 2:
            raise ValueError(
                f"There is no predicted label in outputs of shape {tuple(outputs.shape)}: give targets (place, label), "
                "or labels of tokens with HeadImportance(..., target='gold' or 'next')."
            )
        return outputs.argmax(-1)


@dataclass(frozen=True)
class FirstPass:
    """A model's layers in the order of their calls, and the shape of its output, as a first pass shows them."""

    layers: list[nn.Module]
    """In the order of their calls; one that is called n times is listed n times."""
    shape: tuple[int, ...]
    """Shape of an example's output."""

    @classmethod
    @with_gradients(False)
    def from_examples(cls, examples: Examples) -> FirstPass:
        """Run the first example."""
        calls: list[nn.Module] = []

        def note(call: AttentionCall) -> Result:
            calls.append(call.module)
            return call.proceed()

        first = [value[:1] for value in examples.inputs]
        outputs = intercepted(examples.layers, note, lambda: examples.logits_of(*first))
        layers = [module for module in calls if module in examples.layers]
        missing = [layer for layer in examples.layers if layer not in calls]
        if missing:
            raise ValueError(
                f"The model never reaches the attention of {len(missing)} of the {len(examples.layers)} layers "
                f"({type(missing[0]).__name__}): leave them out, layers=[...]."
            )
        return cls(layers, tuple(outputs.shape[1:]))

    @property
    def labels(self) -> int | None:
        """Number of outputs of an example; None if they are not a single row."""
        return None if len(self.shape) > 1 else self.shape[0] if self.shape else 1

    def checked(self, labels: Any, examples: Examples, *, following: bool = False) -> Any:
        """Check labels and return the target, or several gold labels, of each example.

        Args:
            labels: The labels of the batch, in any form.
            examples: The batch.
            following: Whether they are labels of tokens that belong to the output one position earlier.

        Raises:
            ValueError: Labels are missing, or not the model's.
        """
        if self.labels == 1:
            return 0 if self.shape else None
        if labels is None:
            raise ValueError("The batch has no labels: give them, or HeadImportance(..., target='predicted').")
        rows = rows_of(labels)
        if rows is not None or following:
            return GoldLabels.from_rows(
                rows, self.shape, examples.inputs[0], several=examples.output.several, following=following
            )
        if self.labels is None:
            return labels  # the output is not one number a label: a target in any of Captum's forms
        return _checked_numbers(all_or_each("labels", labels, "examples", len(examples.inputs[0])), self.labels)


def _checked_numbers(numbers: list[Any], count: int) -> list[int]:
    """Check that labels are numbers of the model's ``count`` labels."""
    for place, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            raise ValueError(
                f"Example {place} of the batch has the label {number!r}; the model's are 0 to {count - 1}."
            )
    return numbers


def examples_of(
    batch: Any, function: Callable[..., Any], device: Any, layers: list[nn.Module], output: Output
) -> Examples:
    """Make examples from a batch, which is a mapping, a tensor or a tuple of tensors.

    Raises:
        TypeError: The batch has none of these forms.
    """
    if isinstance(batch, Mapping):
        names = [name for name, value in batch.items() if isinstance(value, Tensor)]
        others = {name: value for name, value in batch.items() if name not in names}
        function, batch = partial(_by_name, function, names, others), tuple(batch[name] for name in names)
    inputs = batch if isinstance(batch, tuple) else (batch,)
    if not inputs or not all(isinstance(value, Tensor) and value.dim() > 0 for value in inputs):
        kinds = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise TypeError(f"A batch must hold tensors with the examples along dimension 0; got {kinds}.")
    return Examples(function, tuple(value if device is None else value.to(device) for value in inputs), layers, output)


def _by_name(function: Callable[..., Any], names: Sequence[str], others: Mapping[str, Any], *values: Tensor) -> Any:
    return function(**dict(zip(names, values, strict=True)), **others)


def count_of(batch: Any) -> int:
    """Count the examples of a batch."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor)), 0)
