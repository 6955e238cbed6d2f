"""Explanation of texts: tokenize, predict, attribute, and put the results of each text together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import captum
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.arguments import check_count
from captum_attattr.attention import original_heads
from captum_attattr.attribution import Integration, PathName, convergence_of, integrals_along, rough_places
from captum_attattr.engine.baselines import attention_baseline as starts_from
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.integration import Convergence, Integral
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.engine.reductions import Keep
from captum_attattr.engine.replay import Recording
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
    check_count("batch_size", batch_size)
    request = Request.from_arguments(text, text_pair, target)
    integration = integration_of(tolerance, n_steps, method)
    explainer = Explainer(Classifier(model, tokenizer, output), _numbers(layers), path, integration, attention_baseline)
    found = dict(explainer.explain_each(request, batch_size, show_progress))
    explanations = [found[place] for place in range(len(found))]
    return explanations[0] if isinstance(text, str) else explanations


def integration_of(tolerance: float | None, n_steps: int | None, method: str) -> Integration:
    """Return how to integrate; with a rule of the user's there is no tolerance.

    Raises:
        ValueError, TypeError: The rule is unknown, or cannot have this number of steps.
    """
    return Integration.from_arguments(tolerance if method == "gausslegendre" else None, n_steps, method)


@dataclass(frozen=True)
class Explainer:
    """A classifier with the settings of its explanations."""

    classifier: Classifier
    layers: list[int] | None
    path: PathName
    integration: Integration
    baseline: float | str | None = None

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

    @with_gradients(True)
    def _explain_batch(self, batch: Batch, targets: Sequence[int | None]) -> list[dict[str, Any]]:
        """Explain the texts of a batch: the fields of each explanation, without padding."""
        recording, calls = self.classifier.record(batch, self.layers)
        if self.layers is not None and len(self.layers) < len(calls.met) > len(set(calls.met)):
            raise ValueError("The model's layers share their weights and cannot be explained apart: leave layers out.")
        wanted = [
            guess if target is None else target
            for target, guess in zip(targets, recording.output.argmax(-1).tolist(), strict=True)
        ]
        starts = starts_from(self.baseline, recording.states, listed=True)
        paths = [LayerPath.from_state(state, start) for state, start in zip(recording.states, starts, strict=True)]
        places, integrals = self._integrated(recording, paths, wanted, calls.numbers)
        reached = convergence_of(integrals, path_named(self.path), [paths[place] for place in places], self.integration)
        states = [recording.states[place] for place in places]
        numbers = [calls.numbers[place] for place in places]
        return self._answers(batch, recording.output, states, wanted, numbers, integrals, reached)

    def _integrated(
        self, recording: Recording, paths: list[LayerPath], wanted: list[int], numbers: list[int]
    ) -> tuple[list[int], list[Integral]]:
        """Integrate, and again without the lowest layers where these keep a joint path from converging.

        Returns:
            The places in ``paths`` of the layers that are explained, and the integrals.
        """
        path, keep, places = path_named(self.path), Keep((None,), True), list(range(len(paths)))
        integrals = integrals_along(path, recording, paths, wanted, self.integration, keep)
        rough = self._rough(recording, paths, wanted, integrals)
        if rough:
            warn(
                f"The joint path through the lowest layers ({', '.join(str(numbers[place]) for place in rough)}) did "
                f"not converge within n_steps={self.integration.n_steps}: they keep their own attention, and the "
                "attributions of the other layers add up to what the output loses without the attention of these."
            )
            places = [place for place in places if place not in rough]
            others = [paths[place] for place in places]
            integrals = integrals_along(path, recording, others, wanted, self.integration, keep)
        return places, integrals

    def _rough(
        self, recording: Recording, paths: list[LayerPath], wanted: list[int], integrals: list[Integral]
    ) -> list[int]:
        """Find the lowest layers that must keep their own attention for the joint path to converge: their places."""
        converged = all(one.converged is None or bool(one.converged.all()) for one in integrals)
        if converged or self.baseline is not None or not path_named(self.path).layers_add_up:
            return []
        tried = replace(self.integration, n_steps=min(_TRIED_STEPS, self.integration.n_steps))
        rough = rough_places(recording, paths, wanted, tried)
        return rough if len(rough) < len(paths) else []  # leaving layers out does not help: a warning says so

    def _answers(
        self,
        batch: Batch,
        outputs: Tensor,
        states: list[LayerState],
        wanted: list[int],
        numbers: list[int],
        integrals: list[Integral],
        reached: Convergence,
    ) -> list[dict[str, Any]]:
        layers = [state.call.module for state in states]
        attributions = original_heads([layer[0] for one in integrals for layer in one.kept], layers)
        attention = original_heads([state.probabilities() for state in states], layers)
        probabilities = self.classifier.probabilities(outputs)
        return [
            {
                "tokens": batch.tokens[row],
                "special": batch.special[row],
                "labels": self.classifier.labels,
                "probabilities": probabilities[row].float().cpu(),
                "target": target,
                "output": float(outputs[row, target]),
                "attributions": _of_row(attributions, row, batch.real),
                "attention": _of_row(attention, row, batch.real),
                "delta": torch.stack([one.gap[row] for one in integrals]).float().cpu(),
                "layers": numbers,
                "settings": self._settings(),
                "evaluations": reached.evaluations[:, row].tolist(),
            }
            for row, target in enumerate(wanted)
        ]

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.classifier.name,
            "output": self.classifier.output,
            "path": self.path,
            "tolerance": self.integration.tolerance,
            "method": self.integration.method,
            "n_steps": int(self.integration.n_steps),
            "baseline": "no attention" if self.baseline is None else str(self.baseline),
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
