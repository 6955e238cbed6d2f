"""The rounds: triggers searched in some training sentences, and tried on all test sentences."""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.setup.command_line import settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store
from benchmarks.setup.timing import timed
from benchmarks.triggers.choices import at_random, by_attention, by_tokens
from benchmarks.triggers.report import METHODS, OURS, TOKENS
from captum_attattr.files.examples import Example, read_examples
from captum_attattr.text.classifier import Classifier
from captum_attattr.triggers import Trigger, attack

Search = Callable[[Sequence[Example], Classifier, argparse.Namespace], list[Trigger]]
SEARCHES: dict[str, Search] = {OURS: by_attention, TOKENS: by_tokens}


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], Store]:
    """The figures, and where single results are kept until the figures are written."""
    classifier = Classifier(args.model, None, "probability")
    training = [e for e in read_examples(args.data, "train", labelled=True) if len(e.text.split()) >= args.words]
    test = read_examples(args.data, labelled=True, limit=args.limit, seed=args.seed)
    texts = "\n".join(f"{example.label}\t{example.text}" for example in [*training, *test])
    settings = settings_of(args, "threads") | {"data": hashlib.sha256(texts.encode()).hexdigest()[:16]}
    store = Store(args.output / "triggers.jsonl", settings)
    if len({example.label for example in test}) < 2:
        raise SystemExit("The test sentences are all of one class: a trigger has nothing to turn. Take more of them.")
    count = min(args.sentences, args.limit or args.sentences, len(training))
    rounds = [
        one_round(seed, random.Random(seed).sample(training, count), test, classifier, store, args)
        for seed in range(args.seed, args.seed + args.seeds)
    ]
    return {
        "settings": settings,
        "model": classifier.name,
        "labels": classifier.labels,
        "test_sentences": len(test),
        "training_sentences_long_enough": len(training),
        "rounds": rounds,
        "environment": environment(),
    }, store


def one_round(
    seed: int, examples: Sequence[Example], test: Sequence[Example], classifier: Classifier, store: Store,
    args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    searched = {
        method: store.get(f"{seed}: {method}", found, search, examples, classifier, args)
        for method, search in SEARCHES.items()
    }
    triggers = {method: [Trigger(**one) for one in part["triggers"]] for method, part in searched.items()}
    triggers |= at_random(examples, classifier.labels, triggers[OURS], args.top, seed)
    seconds = {method: part["seconds"] / len(examples) for method, part in searched.items()}
    rows = store.get(f"{seed}: attack", attacked, triggers, test, classifier)
    return {"seed": seed, "sentences": len(examples), "seconds_a_sentence": seconds, "triggers": rows}


def found(
    search: Search, examples: Sequence[Example], classifier: Classifier, args: argparse.Namespace
) -> dict[str, Any]:
    seconds, triggers = timed(search, examples, classifier, args)
    # The sentences themselves are not ours to pass on.
    bare = [vars(replace(trigger, source=None, source_pair=None)) for trigger in triggers]
    return {"seconds": seconds, "triggers": bare}


def attacked(
    triggers: dict[str, list[Trigger]], test: Sequence[Example], classifier: Classifier
) -> list[dict[str, Any]]:
    """For each trigger, the accuracy that it leaves on the test sentences of the other classes."""
    rows = []
    for number, label in enumerate(classifier.labels):
        others = [example for example in test if classifier.target(str(example.label)) != number]
        own = [(method, trigger) for method in METHODS for trigger in triggers[method] if trigger.label == label]
        if not own or not others:
            continue
        chosen = [trigger for _, trigger in own]
        result = attack(others, chosen, classifier.model, classifier.tokenizer, show_progress=True)
        rows += [
            {
                "method": method, "label": label, "words": trigger.words, "positions": trigger.positions,
                "score": trigger.score if trigger.shares else None, "others": len(others),
                "others_before": result.before.total, "others_after": after.total,
            }
            for (method, trigger), after in zip(own, result.after, strict=True)
        ]  # fmt: skip
    return rows
