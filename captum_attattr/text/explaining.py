"""Explanation of texts: tokenize, predict, attribute, and put the results of each text together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import captum
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.arguments import check_count
from captum_attattr.attribution import Integration, PathName
from captum_attattr.engine.baselines import attention_baseline as starts_from
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.text.classifier import Batch, Classifier
from captum_attattr.text.doubts import Doubts
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.model_output import OfLabel
from captum_attattr.text.recorded_batch import Found, RecordedBatch
from captum_attattr.text.request import Request, Target

_LAYERWISE: PathName = "layerwise"


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
    output: OfLabel = "log-odds",
    layers: Sequence[int] | None = None,
    path: PathName | None = None,
    layerwise: bool | Sequence[int] = False,
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
        output: F of the target: its "log-odds" log p - log(1 - p), which do not saturate; its "logit", "probability"
            or "log-probability". A regression model's output is taken as it is.
        layers: Numbers of the layers to explain, from 0, in the order in which they run; None for all.
        path: "joint" or "layerwise", see :class:`SelfAttentionAttribution`; by default "joint", whose attributions add
            up over layers, and "layerwise" where ``layers`` are given, since it tells what a layer adds by itself. For
            scores of tokens the joint path is more faithful and faster (``benchmarks/results/faithfulness.md``). The
            lowest layers that keep a joint path from converging (:func:`rough_layers`) keep their own attention, and a
            warning says so.
        layerwise: Explain all these layers, or those with these numbers, by the layerwise path as well:
            :attr:`Explanation.layerwise`.
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
        UserWarning: A text is longer than the model allows and was cut, or holds many words that the tokenizer does
            not know; a probability is explained that hardly moves, near 1.

    Example:
        >>> from captum_attattr import explain
        >>> explanation = explain("The plot was interesting but the execution was poor.")
        >>> explanation.prediction
        'negative'
    """
    check_count("batch_size", batch_size)
    request = Request.from_arguments(text, text_pair, target)
    integration = integration_of(tolerance, n_steps, method)
    chosen = numbers_of("layers", layers)
    beside = layerwise if isinstance(layerwise, bool) else numbers_of("layerwise", layerwise) or False
    classifier = Classifier(model, tokenizer, output)
    explainer = Explainer(classifier, chosen, path_of(path, chosen), integration, attention_baseline, beside)
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
    """The layers to explain; None for all."""
    path: PathName
    integration: Integration
    baseline: float | str | None = None
    layerwise: list[int] | bool = False
    """The layers to explain by the layerwise path as well: True for all."""

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
        batches, doubts = self.classifier.batches(request.texts, request.pairs, batch_size), Doubts(len(targets))
        with tqdm(total=len(targets), desc="Explaining", unit="text", disable=not show_progress) as bar:
            for batch in batches:
                answers = self._explain_batch(batch, [targets[place] for place in batch.places], request)
                for place, unknown, answer in zip(batch.places, batch.unknown, answers, strict=True):
                    doubts.note(place, unknown, answer)
                    yield place, answer
                    bar.update()
        doubts.warn()

    @with_gradients(True)
    def _explain_batch(self, batch: Batch, targets: Sequence[int | None], request: Request) -> list[Explanation]:
        recording, calls = self.classifier.record(batch, self._recorded)
        if self._recorded is not None and len(self._recorded) < len(calls.met) > len(set(calls.met)):
            raise ValueError("The model's layers share their weights and cannot be explained apart: leave layers out.")
        wanted = [
            guess if target is None else target
            for target, guess in zip(targets, recording.output.argmax(-1).tolist(), strict=True)
        ]
        starts = starts_from(self.baseline, recording.states, listed=True)
        paths = [LayerPath.from_state(state, start) for state, start in zip(recording.states, starts, strict=True)]
        recorded = RecordedBatch(recording, paths, calls.numbers, wanted, self.integration, self.baseline is None)
        made = partial(self._explanations, batch, request, recording.output, wanted)
        explanations = made(self.path, recorded.along(self.path, self.layers))
        if self.layerwise is False or self.path == _LAYERWISE:
            return explanations
        beside = made(_LAYERWISE, recorded.along(_LAYERWISE, self._beside))
        return [replace(one, layerwise=other) for one, other in zip(explanations, beside, strict=True)]

    @property
    def _beside(self) -> list[int] | None:
        return self.layers if isinstance(self.layerwise, bool) else self.layerwise

    @property
    def _recorded(self) -> list[int] | None:
        """The layers to record: those of both paths."""
        if self.layerwise is False or self.layers is None or self._beside is None:
            return self.layers
        return sorted({*self.layers, *self._beside})

    def _explanations(
        self, batch: Batch, request: Request, outputs: Tensor, wanted: Sequence[int], path: PathName, found: Found
    ) -> list[Explanation]:
        probabilities = self.classifier.probabilities(outputs)
        return [
            Explanation(
                text=request.texts[batch.places[row]],
                text_pair=None if request.pairs is None else request.pairs[batch.places[row]],
                tokens=batch.tokens[row],
                special=batch.special[row],
                labels=self.classifier.labels,
                probabilities=probabilities[row].float().cpu(),
                target=target,
                output=float(outputs[row, target]),
                settings=self._settings(path),
                spans=batch.spans[row],
                **found.of_text(row, batch.real),
            )
            for row, target in enumerate(wanted)
        ]

    def _settings(self, path: PathName) -> dict[str, Any]:
        return {
            "model": self.classifier.name,
            "output": self.classifier.output,
            "path": path,
            "tolerance": self.integration.tolerance,
            "method": self.integration.method,
            "n_steps": int(self.integration.n_steps),
            "baseline": "no attention" if self.baseline is None else str(self.baseline),
            "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, captum)},
        }


def path_of(path: PathName | None, layers: Sequence[int] | None) -> PathName:
    """Return the kind of path: where layers are asked for, the one that asks what each of them adds by itself."""
    return path if path is not None else "joint" if layers is None else _LAYERWISE


def numbers_of(name: str, layers: Any) -> list[int] | None:
    """Check a list of layer numbers; None stays None.

    Raises:
        TypeError: It is no list of whole numbers.
        ValueError: It is empty, or names a layer twice.
    """
    if layers is None:
        return None
    numbers = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise TypeError(f"{name} must be a list of layer numbers, got {layers!r}.")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} {numbers} must name at least one layer, and each of them once.")
    return numbers
