"""Accuracy as heads are removed, in every order that is compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.pruning.task import MEASURES, PREDICTED, Head, Task
from captum_attattr.heads import Random
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance

LEVELS = range(11)


def order_of(scores: np.ndarray, normalized: bool) -> list[Head]:
    """Heads from the least important on."""
    importance = Importance(torch.from_numpy(scores), torch.zeros(scores.shape), 1, "", {})
    return importance.lowest(scores.size, "l2" if normalized else None)


def curve(task: Task, order: Sequence[Head]) -> dict[str, Any]:
    """Which sentences are right at each level, and how many heads go before one point of accuracy is lost."""
    counts = [round(level / 10 * len(order)) for level in LEVELS]
    right = np.stack([task.right(order[:count]) for count in counts])
    accuracy = right.mean(1)
    fails = next((place for place in LEVELS if accuracy[place] < accuracy[0] - 0.01), len(LEVELS))
    free = counts[fails - 1]
    # Between the last level that holds and the first that does not, head by head.
    while free < len(order) and task.right(order[: free + 1]).mean() >= accuracy[0] - 0.01:
        free += 1
    return {"right": right, "accuracy": accuracy.tolist(), "heads_removed": counts, "free": free}


def recomputed_order(task: Task) -> list[Head]:
    """Attattr taken anew after every tenth of the heads, of the model as it then is."""
    order: list[Head] = []
    for level in LEVELS[1:]:
        scores = task.importance(MEASURES["attattr"], "gold", order)
        wanted = round(level / 10 * len(task.grid)) - len(order)
        order += sorted((head for head in task.grid if head not in order), key=lambda head: scores[head])[:wanted]
    return order


def curves(task: Task, seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for normalized, (name, measure) in itertools.product((False, True), MEASURES.items()):
        found[name + ", layers normalised" * normalized] = curve(task, order_of(task.importance(measure), normalized))
    for seed in range(seeds):
        scorer = HeadImportance(task.model, measure=Random(seed))
        scores = scorer.run(task.other[:1], tokenizer=task.classifier.tokenizer).scores.numpy()
        found[f"random {seed}"] = curve(task, order_of(scores, False))
    found["attattr, recomputed"] = curve(task, recomputed_order(task))
    for name in PREDICTED:
        scores = task.importance(MEASURES[name], "predicted")
        found[f"{name}, predicted label"] = curve(task, order_of(scores, False))
    return found


def against(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Accuracy over levels 10% to 90%, one order's minus another's on the same sentences, with its standard error."""
    difference = one[1:10].mean(0) - other[1:10].mean(0)
    return {"mean": float(difference.mean()), "error": float(difference.std(ddof=1) / len(difference) ** 0.5)}


def top_of_each_layer(task: Task, k: int) -> dict[str, float]:
    """Accuracy with only the k most important heads of each layer."""
    found = {}
    for name, measure in MEASURES.items():
        scores = torch.from_numpy(task.importance(measure))
        removed = Importance(scores, torch.zeros_like(scores), task.count, name, {}).outside_top(k)
        found[name] = float(task.right(removed).mean())
    return found
