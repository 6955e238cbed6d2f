"""Explanation of texts: tokenize, predict, attribute, and put the results of each text together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import captum
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.attention import original_heads
from captum_attattr.attribution import PathName, SelfAttentionAttribution, rough_layers
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.engine.quadrature import check_steps, steps_of
from captum_attattr.engine.warned import warn
from captum_attattr.text.classifier import Asked, Batch, Classifier
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.request import Request, Target

# Maximum number of evaluations of a joint path without its lowest layers: if it takes more, it is still rough.
_TRIED_STEPS = 60


@overload
def explain(text: str, model: Any = ..., tokenizer: Any = ..., **options: Any) -> Explanation: ...
@overload
def explain(text: Sequence[str], model: Any = ..., tokenizer: Any = ..., **options: Any) -> list[Explanation]: ...
def explain(  # type: ignore[misc]  # the overloads name the results; the options are checked here
    text: str | Sequence[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    *,
    text_pair: str | Sequence[str] | None = None,
    target: Target | Sequence[Target] = None,
    output: Asked = "probability",
    layers: Sequence[int] | None = None,
    path: PathName = "layerwise",
    tolerance: float | None = 0.01,
    n_steps: int | None = None,
    method: str = "gausslegendre",
    attention_baseline: float | str | None = None,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Explanation | list[Explanation]:
    """Explain a classification model's output for a text by its attention.

    Args:
        text: A text, or a list of them. Texts of similar length are explained together.
        model: A sequence classification model of transformers, a folder or a name on the Hub; None for the bundled
            sentiment model. Of an encoder-decoder the encoder's attention is explained.
        tokenizer: The model's tokenizer; needed if ``model`` is a module.
        text_pair: Second text of a sentence pair, one for each text.
        target: Label to explain, by number or name, one for all or one for each text; None for the predicted one, or
            a regression model's only output.
        output: F: the "probability" of the target or its "logit". A regression model's output is taken as it is.
        layers: Numbers of the layers to explain, from 0, in the order in which they run; None for all.
        path: "layerwise" or "joint", see :class:`SelfAttentionAttribution`. For scores of tokens the joint path is
            more faithful and faster (``benchmarks/results/faithfulness.md``); for layers and heads use "layerwise". The
            lowest layers that keep a joint path from converging (:func:`rough_layers`) keep their own attention, and a
            warning says so.
        tolerance: Relative error to reach: each text takes as many evaluations in each layer as it needs. None for
            ``n_steps`` evaluations of ``method`` everywhere.
        n_steps: Number of evaluations on the path, for each text and layer, 20 by default; with ``tolerance`` the
            maximum, 1,000 by default.
        method: Integration rule; with a rule other than the default, ``tolerance`` is not used.
        attention_baseline: A0: None for no attention, a number, or "uniform".
        batch_size: Maximum number of texts at a time; fewer if they are long.
        show_progress: Show a progress bar on standard error.

    Returns:
        An :class:`Explanation` for a text; for a list of texts a list of them, in the same order.

    Raises:
        ValueError: A text is empty, a label or layer is unknown, the model cannot be loaded, or settings do not fit;
            see :meth:`SelfAttentionAttribution.attribute`.
        TypeError: An argument is of the wrong type.
        UnsupportedModelError: The model's attention cannot be reached.

    Warns:
        UserWarning: A text is longer than the model allows and was cut.

    Example:
        >>> from captum_attattr import explain
        >>> explanation = explain("The plot was interesting but the execution was poor.")
        >>> explanation.prediction
        'negative'
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
    request = Request.from_arguments(text, text_pair, target)
    options = integration_options(tolerance, n_steps, method, attention_baseline)
    explainer = Explainer(Classifier(model, tokenizer, output), _numbers(layers), path, options)
    found = dict(explainer.explain_each(request, batch_size, show_progress))
    explanations = [found[place] for place in range(len(found))]
    return explanations[0] if isinstance(text, str) else explanations


def integration_options(
    tolerance: float | None, n_steps: int | None, method: str, attention_baseline: float | str | None = None
) -> dict[str, Any]:
    """Make the options of :meth:`SelfAttentionAttribution.attribute`; with a rule of the user's there is no tolerance.

    Raises:
        ValueError, TypeError: The rule is unknown, or cannot have this number of steps.
    """
    if method != "gausslegendre":
        tolerance = None
    n_steps = steps_of(n_steps, tolerance)
    check_steps(method, n_steps, fixed=tolerance is None)
    return {
        "tolerance": tolerance,
        "n_steps": n_steps,
        "method": method,
        "attention_baselines": attention_baseline,
    }


@dataclass(frozen=True)
class Explainer:
    """A classifier with the settings of its explanations."""

    classifier: Classifier
    layers: list[int] | None
    path: PathName
    options: dict[str, Any]
    """Options of :meth:`SelfAttentionAttribution.attribute`, from :func:`integration_options`."""

    def explain_each(
        self, request: Request, batch_size: int = 8, show_progress: bool = False
    ) -> Iterator[tuple[int, Explanation]]:
        """Yield explanations when they are ready, short texts first, each with the index of its text."""
        targets = [None if target is None else self.classifier.target(target) for target in request.targets]
        if None in targets and self.classifier.output == "given" and len(self.classifier.labels) > 1:
            raise ValueError(
                f"The model gives {len(self.classifier.labels)} numbers (regression), none of which it predicts: "
                "choose the one to explain, target=..."
            )
        batches = self.classifier.batches(request.texts, request.pairs, batch_size)
        with tqdm(total=len(targets), desc="Explaining", unit="text", disable=not show_progress) as bar:
            for batch in batches:
                answers = self._explain_batch(batch, [targets[place] for place in batch.places])
                for place, answer in zip(batch.places, answers, strict=True):
                    pair = None if request.pairs is None else request.pairs[place]
                    yield place, Explanation(text=request.texts[place], text_pair=pair, **answer)
                    bar.update()

    def _explain_batch(self, batch: Batch, targets: Sequence[int | None]) -> list[dict[str, Any]]:
        """Explain the texts of a batch: the fields of each explanation, without padding."""
        ids, *rest = batch.inputs
        outputs, calls = self.classifier.predict(batch)
        numbers = _chosen(self.layers, calls)
        wanted = [
            guess if target is None else target
            for target, guess in zip(targets, outputs.argmax(-1).tolist(), strict=True)
        ]
        attribution, attributions, delta = self._attributed(batch, calls, numbers, wanted)
        rough = self._rough(batch, calls, numbers, wanted, attribution)
        if rough:
            numbers = numbers[rough:]
            attribution, attributions, delta = self._attributed(batch, calls, numbers, wanted)
        layers = [calls[number] for number in numbers]
        attention = attribution.attention_function(ids, tuple(rest)).attention
        reached: Any = attribution.convergence
        deltas = torch.stack([delta] if isinstance(delta, Tensor) else delta)
        probabilities = self.classifier.probabilities(outputs)
        return [
            {
                "tokens": batch.tokens[row],
                "special": batch.special[row],
                "labels": self.classifier.labels,
                "probabilities": probabilities[row].float().cpu(),
                "target": target,
                "output": float(outputs[row, target]),
                "attributions": _of_row(original_heads(attributions, layers), row, batch.real),
                "attention": _of_row(original_heads(attention, layers), row, batch.real),
                "delta": deltas[:, row].float().cpu(),
                "layers": numbers,
                "settings": self._settings(),
                "evaluations": reached.evaluations[:, row].tolist(),
            }
            for row, target in enumerate(wanted)
        ]

    def _attributed(
        self, batch: Batch, calls: Sequence[nn.Module], numbers: Sequence[int], wanted: list[int]
    ) -> tuple[SelfAttentionAttribution, Any, Any]:
        """Attribute to these layers: returns the method, attributions and deltas."""
        ids, *rest = batch.inputs
        layers = [calls[number] for number in numbers]
        method = SelfAttentionAttribution(self.classifier.outputs, layers, path=self.path)
        attributions, delta = method.attribute(
            ids, target=wanted, additional_forward_args=tuple(rest), return_convergence_delta=True, **self.options
        )
        return method, attributions, delta

    def _rough(
        self,
        batch: Batch,
        calls: Sequence[nn.Module],
        numbers: Sequence[int],
        wanted: list[int],
        method: SelfAttentionAttribution,
    ) -> int:
        """Count the lowest layers that must keep their own attention for the joint path to converge."""
        reached: Any = method.convergence
        tolerance, n_steps, baseline = (self.options[name] for name in ("tolerance", "n_steps", "attention_baselines"))
        shared = len(set(calls)) < len(calls)
        if (
            not path_named(self.path).layers_add_up
            or tolerance is None
            or baseline is not None
            or shared
            or reached.converged.all()
        ):
            return 0
        ids, *rest = batch.inputs
        layers, steps = [calls[number] for number in numbers], min(_TRIED_STEPS, n_steps)
        found = rough_layers(
            self.classifier.outputs, layers, ids, wanted, tuple(rest), tolerance=tolerance, n_steps=steps
        )
        if not found or len(found) == len(layers):
            return 0  # leaving layers out does not help: the results stay as they are, with their warning
        warn(
            f"The joint path through the lowest layers ({', '.join(map(str, numbers[: len(found)]))}) did not converge "
            f"within n_steps={n_steps}: they keep their own attention, and the attributions of the other layers add up "
            "to what the output loses without the attention of these."
        )
        return len(found)

    def _settings(self) -> dict[str, Any]:
        baseline = self.options["attention_baselines"]
        return {
            "model": self.classifier.name,
            "output": self.classifier.output,
            "path": self.path,
            "tolerance": self.options["tolerance"],
            "method": self.options["method"],
            "n_steps": int(self.options["n_steps"]),
            "baseline": "no attention" if baseline is None else str(baseline),
            "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, captum)},
        }


def _of_row(matrices: Sequence[Tensor], row: int, real: Tensor) -> Tensor:
    """Select the matrices (L, H, T, T) of one text, without its padding."""
    kept = real[row].to(matrices[0].device)
    return torch.stack([matrix[row][:, kept][:, :, kept] for matrix in matrices]).float().cpu()


def _numbers(layers: Any) -> list[int] | None:
    if layers is None:
        return None
    numbers = list(layers) if isinstance(layers, Sequence) else [layers]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise TypeError(f"layers must be a list of layer numbers, got {layers!r}.")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"layers {numbers} must name at least one layer, and each of them once.")
    return numbers


def _chosen(layers: list[int] | None, calls: Sequence[nn.Module]) -> list[int]:
    everything = list(range(len(calls)))
    if layers is None:
        return everything
    if any(number not in everything for number in layers):
        raise ValueError(f"layers {layers} do not all exist: the model has layers 0 to {everything[-1]}.")
    if layers != everything and len(set(calls)) < len(calls):
        raise ValueError("The model's layers share their weights and cannot be explained apart: leave layers out.")
    return layers
