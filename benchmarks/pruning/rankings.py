"""What the rankings of heads are like: agreement, stability, the effect of few steps, and how far pairs reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.pruning.task import CHUNK, MEASURES, PREDICTED, Task
from benchmarks.setup.rank_correlation import rank_correlation
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.files.examples import Example, label_numbers
from captum_attattr.heads import AttAttr, Measure
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.text.classifier import Classifier


def agreement(task: Task) -> dict[str, Any]:
    """Spearman's correlation between the measures, and between gold and predicted label."""
    gold = {name: task.importance(measure) for name, measure in MEASURES.items()}
    predicted = {name: task.importance(MEASURES[name], "predicted") for name in PREDICTED}
    return {
        "between measures": {x: {y: rank_correlation(gold[x], gold[y]) for y in MEASURES} for x in MEASURES},
        "gold and predicted": {name: rank_correlation(gold[name], predicted[name]) for name in PREDICTED},
    }


def stability(task: Task, sizes: Sequence[int]) -> dict[str, Any]:
    """Spearman's correlation of rankings by n sentences: with that by all, and of two by n sentences each, none shared.

    Means over all the ways to cut the sentences, in their random order, into runs of n.
    """
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        parts = [range(task.count), range(task.count, max(sizes))]
        scores = np.concatenate([task.scores(measure, part) for part in parts if len(part)])
        found[name] = {}
        for n in sizes:
            runs = [scores[start : start + n].mean(0) for start in range(0, len(scores) - n + 1, n)]
            pairs = list(zip(runs[::2], runs[1::2], strict=False))
            found[name][str(n)] = {
                "with all": statistics.mean(rank_correlation(one, scores.mean(0)) for one in runs),
                "between two": statistics.mean(rank_correlation(*pair) for pair in pairs) if pairs else None,
            }
    return found


def steps(task: Task, fine: int = 20) -> dict[str, float]:
    """What few steps change in attattr, on ten sentences, against many."""
    examples = task.other[:CHUNK]

    def scores(measure: Measure) -> torch.Tensor:
        importance = HeadImportance(task.model, measure=measure).run(examples, tokenizer=task.classifier.tokenizer)
        return importance.scores

    few, many = scores(MEASURES["attattr"]), scores(AttAttr(n_steps=fine, tolerance=None))
    return {
        "few": MEASURES["attattr"].settings()["n_steps"],
        "many": fine,
        "rank correlation": rank_correlation(few, many),
        "largest difference": float((few - many).abs().max() / many.abs().max()),
    }


def receptive_field(task: Task, strongest: int = 5) -> dict[str, Any]:
    """Distances |query - key| of each layer's strongest pairs of words, heads summed; and of all pairs of words."""
    found = []
    order = sorted(range(task.count), key=lambda place: task.lengths[place])
    for start in range(0, task.count, CHUNK):
        some = [task.other[place] for place in order[start : start + CHUNK]]
        found.append(task.store.get(f"distances {start}", distances, task, some, strongest))
    by_layer = [[d for part in found for d in part["strongest"][layer]] for layer in range(task.layers)]
    everything = [d for part in found for d in part["all"]]
    return {
        "strongest pairs": strongest,
        "sentences": task.count,
        "mean distance": [statistics.mean(layer) for layer in by_layer],
        "median distance": [statistics.median(layer) for layer in by_layer],
        "next to each other": [statistics.mean(d == 1 for d in layer) for layer in by_layer],
        "a word and itself": [statistics.mean(d == 0 for d in layer) for layer in by_layer],
        "mean distance of all pairs": statistics.mean(everything),
    }


def distances(task: Task, examples: list[Example], strongest: int) -> dict[str, Any]:
    classifier = Classifier(task.model, task.classifier.tokenizer, "probability")
    layers: list[list[int]] = [[] for _ in range(task.layers)]
    everything: list[float] = []
    labels = label_numbers(examples, classifier.labels)
    for batch in classifier.batches([example.text for example in examples], None, CHUNK):
        first, *rest = batch.inputs
        method = SelfAttentionAttribution(classifier.outputs, attention_layers(classifier.model))
        target = [labels[place] for place in batch.places]
        attributions = method.attribute(first, target=target, additional_forward_args=tuple(rest), n_steps=4)
        for row, special in enumerate(batch.special):
            words = torch.tensor([place for place, is_special in enumerate(special) if not is_special])
            apart = (words[:, None] - words[None, :]).abs()
            everything.append(float(apart.double().mean()))
            for layer, attribution in enumerate(attributions):
                size = attribution[row].sum(0)[words][:, words].abs().flatten()
                layers[layer] += apart.flatten()[size.topk(min(strongest, len(size))).indices].tolist()
    return {"strongest": layers, "all": everything}
