"""A classifier's accuracy as its heads are removed, in the order that each measure gives.

    python benchmarks/pruning.py --data FOLDER

The experiment of Hao et al. (AAAI 2021, section 5) on the bundled model. FOLDER holds SST-2 as ``test.tsv`` (the
official validation set, whole sentences: accuracy is taken on it) and ``dev.tsv`` (a part of the training set that the
model was not trained on: importance is taken on whole sentences of it), columns sentence and label.

Every result is kept in ``pruning.jsonl`` as soon as it is there: give the same command again to go on. When all
are there, ``pruning.json``, ``pruning.md`` and ``pruning.png`` are written and the state is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from machine import environment
from pruning_report import write_report
from pruning_task import CHUNK, Head, Task
from store import Store

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.files.examples import Example, label_numbers, read_examples
from captum_attattr.heads import Ablation, AttAttr, Attention, Measure, Random, Taylor
from captum_attattr.heads.checkpoint import model_fingerprint
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.text.classifier import Classifier

RESULTS = Path(__file__).parent / "results"
# Four Gauss-Legendre steps: what that costs in accuracy is measured below, "steps".
MEASURES: dict[str, Measure] = {
    "attattr": AttAttr(n_steps=4, tolerance=None),
    "taylor": Taylor(),
    "attention": Attention(),
    "ablation": Ablation(),
}
# Attention does not ask what the output is.
PREDICTED = ("attattr", "taylor", "ablation")
LEVELS = range(11)


def whole_sentences(examples: list[Example]) -> list[Example]:
    """SST-2's training set holds phrases, too: ten words or more, and a full stop at the end, are a sentence."""
    return [e for e in examples if len(e.text.split()) >= 10 and e.text.split()[-1] in (".", "!", "?")]


def order_of(scores: np.ndarray, normalized: bool) -> list[Head]:
    """Heads from the least important on."""
    importance = Importance(torch.from_numpy(scores), torch.zeros(scores.shape), 1, "", {})
    return importance.lowest(scores.size, "l2" if normalized else None)


# The curves


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


# What the rankings are like


def agreement(task: Task) -> dict[str, Any]:
    """Spearman's correlation between the measures, and between gold and predicted label."""
    gold = {name: task.importance(measure).ravel() for name, measure in MEASURES.items()}
    predicted = {name: task.importance(MEASURES[name], "predicted").ravel() for name in PREDICTED}
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
        scores = scores.reshape(len(scores), -1)
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

    def scores(measure: Measure) -> np.ndarray:
        found: np.ndarray = (
            HeadImportance(task.model, measure=measure)
            .run(examples, tokenizer=task.classifier.tokenizer)
            .scores.numpy()
        )
        return found

    few, many = scores(MEASURES["attattr"]), scores(AttAttr(n_steps=fine, tolerance=None))
    return {
        "few": MEASURES["attattr"].settings()["n_steps"],
        "many": fine,
        "rank correlation": rank_correlation(few.ravel(), many.ravel()),
        "largest difference": float(np.abs(few - many).max() / np.abs(many).max()),
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(pd.DataFrame({"one": one, "other": other}).corr(method="spearman").iloc[0, 1])


def receptive_field(task: Task, strongest: int = 5) -> dict[str, Any]:
    """Distances |query - key| of each layer's strongest pairs of words, heads summed; and of all pairs of words."""
    found = []
    order = sorted(range(task.count), key=lambda place: task.lengths[place])
    for start in range(0, task.count, CHUNK):
        some = [task.other[place] for place in order[start : start + CHUNK]]
        found.append(task.store.get(f"distances {start}", lambda some=some: distances(task, some, strongest)))
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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    classifier = Classifier(args.model, None, "probability")
    test = read_examples(args.data, "test", labelled=True, limit=args.limit, seed=args.seed)
    other = whole_sentences(read_examples(args.data, "dev", labelled=True))
    random.Random(args.seed).shuffle(other)
    if len(other) < max(args.stability, args.examples):
        raise SystemExit(f"dev.tsv holds {len(other)} whole sentences: fewer than --examples or --stability.")
    words = hashlib.sha256(repr((test, other)).encode()).hexdigest()[:16]
    settings = {
        "model": classifier.name,
        "test_sentences": len(test),
        "importance_examples": args.examples,
        "stability_examples": args.stability,
        "seeds": args.seeds,
        "seed": args.seed,
        "measures": {name: m.settings() for name, m in MEASURES.items()},
    }
    key = {**settings, "data": words, **model_fingerprint(classifier.model)}
    # Chunks of sentences for the importance, and evaluations, some of which coincide.
    about = (4 * args.stability + 12 * args.examples) // CHUNK + 13 * (
        len(MEASURES) * 2 + len(PREDICTED) + args.seeds + 1
    )
    store = Store(args.output / "pruning.jsonl", key, about)
    task = Task(classifier, test, other[: max(args.stability, args.examples)], args.examples, store)
    found = curves(task, args.seeds)
    chance = np.mean([found[f"random {seed}"]["right"] for seed in range(args.seeds)], axis=0)
    compared = {
        x: {y: against(found[x]["right"], found[y]["right"]) for y in found if y != x}
        | {"random": against(found[x]["right"], chance)}
        for x in found
    }
    return {
        "settings": settings,
        "accuracy": found["attattr"]["accuracy"][0],
        "majority": max(map(task.labels.count, set(task.labels))) / len(test),
        "curves": {name: {k: v for k, v in one.items() if k != "right"} for name, one in found.items()},
        "compared": compared,
        "top 3 of each layer": top_of_each_layer(task, 3),
        "agreement": agreement(task),
        "receptive field": receptive_field(task),
        "steps": store.get("steps", lambda: steps(task)),
        "stability": stability(task, [n for n in (10, 50, 200, 800) if n <= args.stability]),
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", help="classification model with two labels as SST-2 (default: the bundled one)")
    parser.add_argument("--limit", type=int, help="so many test sentences (default: all)")
    parser.add_argument("--examples", type=int, default=200, help="sentences for the importance")
    parser.add_argument("--stability", type=int, default=800, help="sentences for the stability of the rankings")
    parser.add_argument("--seeds", type=int, default=5, help="random orders")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sentences")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.stability < 10:
        parser.error("--stability must be at least 10, the fewest sentences that a ranking is made of")
    args.output.mkdir(parents=True, exist_ok=True)
    figures = measure(args)
    print(write_report(figures, args.output))
    (args.output / "pruning.jsonl").unlink()


if __name__ == "__main__":
    main()
