"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

import argparse
import hashlib
import random
from typing import Any

import numpy as np

from benchmarks import pruning
from benchmarks.pruning.curves import against, curves, top_of_each_layer
from benchmarks.pruning.plot import plot
from benchmarks.pruning.rankings import agreement, receptive_field, stability, steps
from benchmarks.pruning.report import markdown
from benchmarks.pruning.task import CHUNK, MEASURES, PREDICTED, Task
from benchmarks.setup.command_line import add_texts, command_line, parsed
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store
from captum_attattr.files.examples import Example, read_examples
from captum_attattr.heads.checkpoint import model_fingerprint
from captum_attattr.text.classifier import Classifier


def whole_sentences(examples: list[Example]) -> list[Example]:
    """SST-2's training set holds phrases, too: ten words or more, and a full stop at the end, are a sentence."""
    return [e for e in examples if len(e.text.split()) >= 10 and e.text.split()[-1] in (".", "!", "?")]


def prepared(args: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The task, and the settings that its figures depend on."""
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
    return Task(classifier, test, other[: max(args.stability, args.examples)], args.examples, store), settings


def measure(task: Task, settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
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
        "majority": max(map(task.labels.count, set(task.labels))) / len(task.test),
        "curves": {name: {k: v for k, v in one.items() if k != "right"} for name, one in found.items()},
        "compared": compared,
        "top 3 of each layer": top_of_each_layer(task, 3),
        "agreement": agreement(task),
        "receptive field": receptive_field(task),
        "steps": task.store.get("steps", steps, task),
        "stability": stability(task, [n for n in (10, 50, 200, 800) if n <= args.stability]),
        "environment": environment(),
    }


def main() -> None:
    parser = command_line("pruning", pruning.__doc__)
    add_texts(parser, "folder with test.tsv and dev.tsv")
    parser.add_argument("--examples", type=int, default=200, help="sentences for the importance")
    parser.add_argument("--stability", type=int, default=800, help="sentences for the stability of the rankings")
    parser.add_argument("--seeds", type=int, default=5, help="random orders")
    args = parsed(parser)
    if args.stability < 10:
        parser.error("--stability must be at least 10, the fewest sentences that a ranking is made of")
    task, settings = prepared(args)
    figures = measure(task, settings, args)
    plot(figures, args.output / "pruning.png")
    task.store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
