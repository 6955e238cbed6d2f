"""From text to explanation: tokenize, predict, attribute, and put each answer together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, overload

import captum
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.attention import attention_layers
from captum_attattr.attribution import PathName, SelfAttentionAttribution
from captum_attattr.classifier import Batch, Classifier, Output
from captum_attattr.explanation import Explanation

Target = int | str | None


@overload
def explain(text: str, model: Any = ..., tokenizer: Any = ..., **options: Any) -> Explanation: ...
@overload
def explain(text: list[str], model: Any = ..., tokenizer: Any = ..., **options: Any) -> list[Explanation]: ...
def explain(  # type: ignore[misc]  # the overloads name the results; the options are checked here
    text: str | Sequence[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    *,
    text_pair: str | Sequence[str] | None = None,
    target: Target | Sequence[Target] = None,
    output: Output = "probability",
    layers: Sequence[int] | None = None,
    path: PathName = "layerwise",
    n_steps: int = 20,
    method: str = "gausslegendre",
    attention_baseline: float | str | None = None,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Explanation | list[Explanation]:
    """Explain a classification model's output for a text by its attention.

    Args:
        text: A text, or a list of them. Texts of like length are explained together.
        model: A sequence classification model of transformers, a folder or a name on the Hub; None for the bundled
            sentiment model.
        tokenizer: The model's tokenizer; needed where ``model`` is a module.
        text_pair: Second text of a sentence pair, one for each text.
        target: Label to explain, by number or name, one for all or one for each text; None for the predicted one.
        output: F: the "probability" of the target or its "logit". A regression model's output is taken as it is.
        layers: Numbers of the layers to explain, from 0; None for all.
        path: "layerwise" or "joint", see :class:`SelfAttentionAttribution`.
        n_steps: Evaluations on the path, for each text and layer.
        method: Rule of integration.
        attention_baseline: A0: None for no attention, a number, or "uniform".
        batch_size: At most so many texts at a time.
        show_progress: Show a progress bar on standard error.

    Returns:
        An :class:`Explanation` for a text; for a list a list of them, in its order.

    Raises:
        ValueError: Empty text, unknown label or layer, a model that cannot be loaded, or settings that do not fit;
            see :meth:`SelfAttentionAttribution.attribute`.
        TypeError: An argument is of the wrong kind.
        UnsupportedModelError: The model's attention is out of reach.

    Warns:
        UserWarning: A text is longer than the model takes and was cut.

    Example:
        >>> from captum_attattr import explain
        >>> explanation = explain("The plot was interesting but the execution was poor.")
        >>> explanation.prediction
        'negative'
    """
    texts = _texts(text, "text")
    pairs = None if text_pair is None else _texts(text_pair, "text_pair")
    targets = _one_each(target, len(texts))
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"Got {len(pairs)} second texts for {len(texts)} texts: give one each.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
    classifier = Classifier(model, tokenizer, output)
    numbers, modules = _chosen_layers(classifier.model, layers)
    attribution = SelfAttentionAttribution(classifier.outputs, modules, path=path)
    options = {"method": method, "n_steps": n_steps, "attention_baselines": attention_baseline}
    settings = _settings(classifier, path, options)
    found: dict[int, Explanation] = {}
    with tqdm(total=len(texts), desc="Explaining", unit="text", disable=not show_progress) as bar:
        for batch in classifier.batches(texts, pairs, batch_size):
            answers = _explain_batch(
                classifier, attribution, batch, [targets[place] for place in batch.places], options
            )
            for place, answer in zip(batch.places, answers, strict=True):
                second = None if pairs is None else pairs[place]
                found[place] = Explanation(
                    text=texts[place], text_pair=second, labels=classifier.labels, layers=numbers, settings=settings,
                    **answer,
                )  # fmt: skip
                bar.update()
    explanations = [found[place] for place in range(len(texts))]
    return explanations[0] if isinstance(text, str) else explanations


def _explain_batch(
    classifier: Classifier,
    attribution: SelfAttentionAttribution,
    batch: Batch,
    targets: Sequence[Target],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """What is new about each text of a batch, padding cut off."""
    ids, *rest = batch.inputs
    with torch.no_grad():
        outputs = classifier.outputs(*batch.inputs)
    probabilities = outputs if classifier.output == "probability" else classifier.probabilities(outputs)
    predicted = outputs.argmax(-1).tolist()
    wanted = [classifier.target(target, guess) for target, guess in zip(targets, predicted, strict=True)]
    attributions, delta = attribution.attribute(
        ids, target=wanted, additional_forward_args=tuple(rest), return_convergence_delta=True, **options
    )
    attention = attribution.attention_function(ids, tuple(rest)).attention
    deltas = torch.stack([delta] if isinstance(delta, Tensor) else delta)

    def of_row(matrices: Sequence[Tensor], row: int) -> Tensor:
        real = batch.real[row].to(matrices[0].device)
        return torch.stack([matrix[row][:, real][:, :, real] for matrix in matrices]).float().cpu()

    return [
        {
            "tokens": batch.tokens[row],
            "special": batch.special[row],
            "probabilities": probabilities[row].float().cpu(),
            "target": wanted[row],
            "output": float(outputs[row, wanted[row]]),
            "attributions": of_row(attributions, row),
            "attention": of_row(attention, row),
            "delta": deltas[:, row].float().cpu(),
        }
        for row in range(len(wanted))
    ]


def _texts(given: str | Sequence[str], name: str) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name} {place} is a {type(text).__name__}, expected a string.")
        if not text.strip():
            raise ValueError(f"{name} {place} is empty: there is nothing to explain.")
    if not texts:
        raise ValueError(f"{name} is an empty list: give at least one text.")
    return texts


def _one_each(target: Target | Sequence[Target], count: int) -> list[Target]:
    if target is None or isinstance(target, (int, str)):
        return [target] * count
    if len(target) != count:
        raise ValueError(f"Got {len(target)} targets for {count} texts: give one each, or one for all.")
    return list(target)


def _chosen_layers(model: nn.Module, layers: Sequence[int] | None) -> tuple[list[int], list[nn.Module]]:
    everything = attention_layers(model)
    numbers = list(range(len(everything))) if layers is None else list(layers)
    if not numbers or any(not 0 <= number < len(everything) for number in numbers):
        raise ValueError(f"layers {numbers} do not all exist: the model has layers 0 to {len(everything) - 1}.")
    return numbers, [everything[number] for number in numbers]


def _settings(classifier: Classifier, path: str, options: dict[str, Any]) -> dict[str, Any]:
    baseline = options["attention_baselines"]
    return {
        "model": classifier.name,
        "output": classifier.output,
        "path": path,
        "method": options["method"],
        "n_steps": options["n_steps"],
        "baseline": "no attention" if baseline is None else str(baseline),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "captum": captum.__version__,
        },
    }
