"""What of a model's output is explained, on a batch in whatever form it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_attattr.attention import AttentionCall, Result, intercepted


@dataclass(frozen=True)
class Output:
    """What F is, for a model that gives logits.

    Args:
        kind: "probability" or "logit" of a label; "given": what the forward function returns, whatever it is.
        several: Whether an example may have several labels, so that each has a probability of its own.
    """

    kind: Literal["probability", "logit", "given"]
    several: bool = False

    def of(self, logits: Tensor) -> Tensor:
        """F of each label, (B, labels)."""
        if self.kind != "probability":
            return logits
        return logits.sigmoid() if self.several else logits.softmax(-1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of each label, (B, labels).

        Raises:
            ValueError: Whether these are logits is not known, or there are no labels to choose from.
        """
        if self.kind == "given" or logits.shape[-1] == 1:
            raise ValueError(
                "A loss needs logits of several labels. For a forward function that returns logits say so with "
                "output='probability' or 'logit'; otherwise take the measure 'ablation_output'."
            )
        return F.logsigmoid(logits) if self.several else logits.log_softmax(-1)


@dataclass(frozen=True)
class Examples:
    """A batch to measure heads on. B examples."""

    function: Callable[..., Any]
    """Called with the inputs in order; gives the logits of each example, or a model output that holds them."""
    inputs: tuple[Tensor, ...]
    layers: list[nn.Module]
    """The attention layers, in the order of their calls; one that is called n times is there n times."""
    output: Output
    labels: Any = None
    """Which output is F, in any of Captum's forms of a target; None for the predicted one."""

    def logits_of(self, *inputs: Tensor) -> Tensor:
        """In float32 at least."""
        logits = self.function(*inputs)
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor):
            raise TypeError(f"The model must return logits or a tensor, got {type(logits).__name__}.")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def outputs_of(self, *inputs: Tensor) -> Tensor:
        """F for every label."""
        return self.output.of(self.logits_of(*inputs))

    def target(self, outputs: Tensor) -> Any:
        """Which output of each example is F."""
        if self.labels is not None:
            return self.labels
        if outputs.dim() != 2:
            raise ValueError(f"There is no predicted label in outputs of shape {tuple(outputs.shape)}: give targets.")
        return outputs.argmax(-1)


@dataclass(frozen=True)
class Seen:
    """What one pass shows about a model."""

    layers: list[nn.Module]
    """In the order of their calls, one that is called n times n times."""
    labels: int | None
    """How many outputs an example has, where they are in one row."""

    @classmethod
    def of(cls, examples: Examples) -> Seen:
        """By running the first example."""
        calls: list[nn.Module] = []

        def note(call: AttentionCall) -> Result:
            calls.append(call.module)
            return call.proceed()

        with torch.no_grad():
            first = [value[:1] for value in examples.inputs]
            outputs = intercepted(examples.layers, note, lambda: examples.logits_of(*first))
        layers = [module for module in calls if module in examples.layers]
        missing = [layer for layer in examples.layers if layer not in calls]
        if missing:
            raise ValueError(
                f"The model never reaches the attention of {len(missing)} of the {len(examples.layers)} layers "
                f"({type(missing[0]).__name__}): leave them out, layers=[...]."
            )
        return cls(layers, outputs.shape[1] if outputs.dim() == 2 else None)

    def checked(self, labels: Any, count: int) -> Any:
        """Which output of each of so many examples is F.

        Raises:
            ValueError: Labels are missing, or not the model's.
        """
        if self.labels == 1:
            return 0
        if labels is None:
            raise ValueError("The batch has no labels: give them, or HeadImportance(..., target='predicted').")
        if self.labels is None:
            return labels  # not one number for each label: any of Captum's forms of a target
        numbers = labels.tolist() if isinstance(labels, Tensor) else labels
        numbers = [numbers] * count if isinstance(numbers, int) else list(numbers)
        if len(numbers) != count:
            raise ValueError(f"Got {len(numbers)} labels for {count} examples: give one each.")
        for place, number in enumerate(numbers):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self.labels:
                raise ValueError(
                    f"Example {place} of the batch has the label {number!r}; the model's are 0 to {self.labels - 1}."
                )
        return numbers


def examples_of(
    batch: Any, function: Callable[..., Any], device: Any, layers: list[nn.Module], output: Output
) -> Examples:
    """A mapping, a tensor or a tuple of tensors as tensors in order, and the function that takes them so.

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
        raise TypeError(f"A batch must hold tensors, the examples in front; got {kinds}.")
    return Examples(function, tuple(value if device is None else value.to(device) for value in inputs), layers, output)


def _by_name(function: Callable[..., Any], names: Sequence[str], others: Mapping[str, Any], *values: Tensor) -> Any:
    return function(**dict(zip(names, values, strict=True)), **others)


def count_of(batch: Any) -> int:
    """How many examples a batch holds."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor)), 0)


def output_of(kind: Any, model: Any) -> Output:
    """What F is: unless said otherwise, the probability for a model, and what it returns for a function."""
    config = getattr(model, "config", None)
    if kind not in (None, "probability", "logit", "given"):
        raise ValueError(f"Unknown output {kind!r}. Choose 'probability', 'logit' or 'given'.")
    if kind is None:
        kind = "probability" if isinstance(model, nn.Module) else "given"
    return Output(kind, getattr(config, "problem_type", None) == "multi_label_classification")
