r"""Measures of how much a head matters for an example.

A is a head's attention, C = A V its context, F the explained output of an example. Importance over a data set is the
mean over examples of

| name | score of a head for one example |
| --- | --- |
| attattr | largest entry of its attribution (Hao et al., AAAI 2021, eq. 6) |
| attattr_sum | magnitude of the sum of the entries of its attribution |
| attattr_absolute | sum of the magnitudes of these entries |
| taylor | magnitude of sum(C * dF/dC) (Michel et al., NeurIPS 2019, eq. 4) |
| attention | largest attention probability |
| ablation | increase of the loss when the head is masked |
| ablation_output | decrease of F when the head is masked |
| ablation_accuracy | 1 if the prediction is right only with the head, -1 if only without it, else 0 |
| random | a random number, as a control |

To add a measure, subclass :class:`captum_attattr.heads.Measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_attattr.arguments import check_choice
from captum_attattr.attention import AttentionCall, Handler, HeadNumbers, Result, intercepted
from captum_attattr.attribution import SelfAttentionAttribution
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.module_calls import ModuleCalls, refuse_dropout
from captum_attattr.heads.ablation import Ablation
from captum_attattr.heads.measure import Measure, scores_of
from captum_attattr.heads.outputs import Examples
from captum_attattr.text.gold_labels import GoldLabels


@dataclass(frozen=True)
class AttAttr(Measure):
    """Self-attention attribution on the layerwise path from zero attention.

    Args:
        reduction: "max" for the largest entry (as in the paper), "sum" for the magnitude of the sum of all entries, or
            "absolute" for the sum of magnitudes.
        n_steps: Maximum number of evaluations on the path; by default as for :class:`SelfAttentionAttribution`.
        method: Integration rule; not used with a tolerance.
        tolerance: Relative error to reach; None takes all steps.
    """

    reduction: Literal["max", "sum", "absolute"] = "max"
    n_steps: int | None = None
    method: str = "gausslegendre"
    tolerance: float | None = 0.01

    def __post_init__(self) -> None:
        """Check the reduction; the rule is checked when it is used."""
        check_choice("reduction", self.reduction, ("max", "sum", "absolute"))

    @property
    def name(self) -> str:
        """The measure's name: attattr, attattr_sum or attattr_absolute."""
        return "attattr" if self.reduction == "max" else f"attattr_{self.reduction}"

    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute (B, heads) for each layer, in the unit of F."""
        target = examples.labels
        if target is None:
            target = examples.target(with_gradients(False)(Forward(examples.outputs_of, examples.inputs))())
        scores = self._reduced(examples, target)
        return [layer.abs() for layer in scores] if self.reduction == "sum" else scores

    def _reduced(self, examples: Examples, target: Any) -> list[Tensor]:
        """Compute the signed sum, the sum of magnitudes or the largest entry of each head's attribution."""
        function, inputs = examples.outputs_of, examples.inputs
        if isinstance(target, GoldLabels):
            (function, inputs), target = target.folded(function, inputs), None
        method = SelfAttentionAttribution(function, examples.layers)
        first, *rest = inputs
        scores: list[Tensor] = method.attribute(
            first,
            target=target,
            additional_forward_args=tuple(rest),
            n_steps=self.n_steps,
            method=self.method,
            tolerance=self.tolerance,
            reduce=self.reduction,
        )
        return [self._of_heads(layer, values) for layer, values in zip(examples.layers, scores, strict=True)]

    def _of_heads(self, layer: nn.Module, scores: Tensor) -> Tensor:
        """Combine the choices, windows or images of an example, which count as further heads: (B, heads)."""
        rows: Tensor = scores.unflatten(1, (-1, len(HeadNumbers.from_layer(layer).remaining)))
        return rows.amax(1) if self.reduction == "max" else rows.sum(1)


@dataclass(frozen=True)
class Taylor(Measure):
    """First-order change of F when a head is scaled: the magnitude of sum(C * dF/dC) over queries and dimensions.

    It equals the magnitude of sum(A * dF/dA) over pairs, since C = A V, but needs only one forward and one backward
    pass and no matrix (Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, NeurIPS 2019, eq. 4, with F in
    place of the loss). The authors also divide a layer's scores by their norm: ``Importance.normalized("l2")``.
    """

    @property
    def name(self) -> str:
        """The measure's name, taylor."""
        return "taylor"

    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute (B, heads) for each layer, in the unit of F."""
        contexts: list[Tensor] = []
        attends: list[Tensor] = []

        def watch(call: AttentionCall) -> Result:
            context, weights = call.proceed()
            if not contexts:
                context = context.detach().requires_grad_()  # nothing below the first layer needs a gradient
            contexts.append(context)
            attends.append(call.pairs().any(-1).transpose(1, 2).unsqueeze(-1))
            return context, weights

        with torch.inference_mode(False), torch.enable_grad():
            forward = Forward(examples.outputs_of, examples.inputs)
            outputs = _watched(examples.layers, watch, forward)
            score = scores_of(forward, outputs, examples.target(outputs.detach()))
            if not score.requires_grad:
                raise ValueError(
                    "The model's output does not depend on its attention, as far as gradients tell. Give its logits or "
                    "probabilities, not detached and not a predicted class."
                )
            gradients = torch.autograd.grad(score.sum(), contexts, allow_unused=True)
        return [
            _product(context.detach(), gradient).masked_fill(~rows, 0).sum((1, 3)).abs()
            for context, gradient, rows in zip(contexts, gradients, attends, strict=True)
        ]


@dataclass(frozen=True)
class Attention(Measure):
    """The largest attention probability of a head, whatever the output is."""

    @property
    def name(self) -> str:
        """The measure's name, attention."""
        return "attention"

    @with_gradients(False)
    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute (B, heads) for each layer, as probabilities."""
        found: list[Tensor] = []

        def watch(call: AttentionCall) -> Result:
            found.append(call.probabilities().masked_fill(~call.pairs_of_tokens(), 0).amax((-2, -1)))
            return call.proceed()

        _watched(examples.layers, watch, Forward(examples.logits_of, examples.inputs))
        return found


@dataclass(frozen=True)
class Random(Measure):
    """A random number in [0, 1) for each head, the same for each example: the control for rankings.

    Args:
        seed: Seed of the generator.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        """The measure's name, random."""
        return "random"

    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute (B, heads) for each layer."""
        generator = torch.Generator().manual_seed(self.seed)
        counts = [len(HeadNumbers.from_layer(layer).remaining) for layer in examples.layers]
        batch = len(examples.inputs[0])
        return [torch.rand(1, count, generator=generator, device="cpu").repeat(batch, 1) for count in counts]


_ALL: tuple[Measure, ...] = (
    AttAttr(), AttAttr("sum"), AttAttr("absolute"), Taylor(), Attention(),
    Ablation(), Ablation("output"), Ablation("accuracy"), Random(),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
"""The measures by name, with their default settings."""


def measure_of(given: str | Measure) -> Measure:
    """Return the measure of a name, or the given measure itself.

    Raises:
        ValueError: There is no measure of that name.
        TypeError: ``given`` is neither a name nor a measure.
    """
    if isinstance(given, Measure):
        return given
    if not isinstance(given, str):
        raise TypeError(f"measure must be a name or a Measure, got {type(given).__name__}.")
    check_choice("measure", given, list(MEASURES))
    return MEASURES[given]


def _watched(layers: Sequence[nn.Module], handler: Handler, function: Callable[[], Tensor]) -> Tensor:
    """Call a function with the layers' attention calls passed to the handler; active dropout is refused."""

    def checked(call: AttentionCall) -> Result:
        refuse_dropout(call.dropout)
        return handler(call) if call.module in layers else call.proceed()

    return ModuleCalls().following(lambda: intercepted(layers, checked, function))


def _product(context: Tensor, gradient: Tensor | None) -> Tensor:
    dtype = torch.promote_types(context.dtype, torch.float32)
    return torch.zeros_like(context, dtype=dtype) if gradient is None else context.to(dtype) * gradient.to(dtype)
