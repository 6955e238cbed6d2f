"""``captum-attattr triggers``: words that predictions rest on, and their effect in other texts."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captum_attattr.cli.options import add_choice_of_texts, add_model, add_output, count, new_command
from captum_attattr.cli.terminal import printable, writable
from captum_attattr.files.digest import bytes_of
from captum_attattr.files.examples import Example, label_numbers, read_examples
from captum_attattr.files.records import Count, Sealed, check_settings, parsed, seal, unseal
from captum_attattr.files.writing import only_here, write_text, writing
from captum_attattr.text.classifier import Classifier
from captum_attattr.triggers import Accuracy, AttackResult, Trigger, attack, save_triggers
from captum_attattr.triggers.extraction import each_pattern, strongest
from captum_attattr.triggers.patterns import TriggerRecord

Found = dict[int, Trigger | None]

_EXAMPLES = """examples:
  captum-attattr triggers --data reviews.tsv --output triggers
  captum-attattr triggers --data sst2 --limit 200 --min-words 13 --output triggers --attack sst2

FOLDER then holds triggers.json, attack.json (with --attack), and patterns.jsonl, the results of every text. With it the
same command continues an interrupted run, and another --top, --threshold or --attack needs no new search.
"""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = new_command(
        commands,
        "triggers",
        help="words that predictions rest on, and their effect in other texts",
        description="Find the words that a classifier's predictions rest on, and try them on other texts.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE_OR_FOLDER",
        help="texts to search: a TSV file with the column 'sentence', and 'pair' if there, or a folder with train.tsv",
    )
    add_model(parser)
    add_choice_of_texts(parser, "search a random choice of N texts")
    parser.add_argument(
        "--min-words", type=count, default=1, metavar="N", help="leave out texts of fewer words (SST-2 has phrases)"
    )
    parser.add_argument("--top", type=count, default=3, metavar="K", help="triggers of each class (default: 3)")
    parser.add_argument(
        "--threshold", type=float, default=0.02, help="smallest score, in units of probability (default: %(default)s)"
    )
    parser.add_argument("--steps", type=count, default=6, metavar="N", help="evaluations on the path (default: 6)")
    parser.add_argument(
        "--attack",
        metavar="FILE_OR_FOLDER",
        help="texts with labels to try the triggers on: a TSV file with the columns 'sentence' and 'label', and "
        "'pair' if there, or a folder with test.tsv",
    )
    add_output(parser, "triggers")
    parser.set_defaults(run=_triggers)


def _triggers(options: argparse.Namespace) -> None:
    examples = _examples(options)
    attacked = read_examples(options.attack, "test", labelled=True) if options.attack else None
    folder = writable(options.output)
    classifier = Classifier(options.model, None, "probability")
    if attacked is not None:
        label_numbers(attacked, classifier.labels)  # raises its errors before the work, not after it
    found = _searched(examples, classifier, folder / "patterns.jsonl", options.steps)
    triggers = strongest([one for one in found.values() if one], classifier.labels, options.top, options.threshold)
    saved = save_triggers(triggers, folder / "triggers.json")
    print(printable(f"{describe_triggers(triggers, classifier.labels, len(examples))}\n\n  saved  {saved}"))
    if attacked is not None:
        result = attack(attacked, triggers, classifier.model, classifier.tokenizer, show_progress=sys.stderr.isatty())
        figures = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        saved = write_text("The attack's figures", folder / "attack.json", figures)
        print(printable(f"\n{describe_attack(result)}\n\n  saved  {saved}"))


def describe_triggers(triggers: Sequence[Trigger], labels: Sequence[str], texts: int) -> str:
    """Describe triggers in words, class by class, the strongest first."""
    lines = [f"strongest triggers found in {texts} texts (score: attribution of their pairs, in units of probability)"]
    for label in labels:
        own = [trigger for trigger in triggers if trigger.label == label]
        lines += ["", f"  {label}", *(_line(trigger) for trigger in own)] + ["    none"] * (not own)
    return "\n".join(lines)


def _line(trigger: Trigger) -> str:
    pairs = ", ".join(f"{query} -> {key}" for query, key in trigger.pairs)
    return (
        f"    {trigger.score:.4f}  {' ... '.join(trigger.words)}  (layer {trigger.layer}, head {trigger.head}: {pairs})"
    )


def describe_attack(result: AttackResult) -> str:
    """Describe accuracies before and after an attack in words."""
    before = result.before
    lines = [
        f"accuracy on {sum(before.counts)} texts, with each trigger put into all of them",
        "",
        f"    total  {_per_class(before)}",
        f"    {before.total:.3f}  {_per_class(before, values=True)}  no trigger",
    ]
    for trigger, after in zip(result.triggers, result.after, strict=True):
        words = " ... ".join(trigger.words)
        lines.append(f"    {after.total:.3f}  {_per_class(after, values=True)}  {words} ({trigger.label})")
    return "\n".join(lines)


def _per_class(accuracy: Accuracy, *, values: bool = False) -> str:
    """Write the names of the classes that have texts, or their accuracies in the same columns."""
    return "  ".join(
        f"{f'{value:.3f}' if values else label:>{max(len(label), 5)}}" for label, value in accuracy.per_class().items()
    )


def _examples(options: argparse.Namespace) -> list[Example]:
    """Read the texts to search: those that are long enough, up to the limit."""
    everything = read_examples(options.data, "train")
    examples = [example for example in everything if len(example.text.split()) >= options.min_words]
    if not examples:
        raise ValueError(f"No text in {options.data} has {options.min_words} words or more: lower --min-words.")
    if options.limit is None or options.limit >= len(examples):
        return examples
    places = random.Random(options.seed).sample(range(len(examples)), options.limit)
    return [examples[place] for place in sorted(places)]


def _searched(examples: Sequence[Example], classifier: Classifier, journal: Path, n_steps: int) -> Found:
    """Search every text, by its number; texts in the journal are not searched again."""
    head = {
        "version": 1,
        "model": _digest(classifier),
        "texts": hashlib.sha256(repr([(e.text, e.text_pair) for e in examples]).encode()).hexdigest(),
        "steps": n_steps,
    }
    with only_here(journal):
        found = _resumed(journal, head, len(examples))
        if found:
            print(f"captum-attattr: {len(found)} of {len(examples)} texts were searched before", file=sys.stderr)
        batches = each_pattern(examples, classifier, n_steps=n_steps, done=found, show_progress=sys.stderr.isatty())
        with open(journal, "a", encoding="utf-8") as file:
            for batch in batches:
                for place, trigger in batch.items():
                    line = seal({"version": 1, "text": place, "trigger": trigger and asdict(trigger)})
                    file.write(json.dumps(line) + "\n")
                file.flush()
                found |= batch
    return found


class _Line(Sealed):
    text: Count
    trigger: TriggerRecord | None


def _resumed(journal: Path, head: dict[str, Any], count: int) -> Found:
    """Read the results of an earlier run with the same head; without a journal begin one."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]  # the last line may be incomplete
    whole = whole or [json.dumps(head).encode() + b"\n"]
    try:
        before = parsed(whole[0])
        rows = [unseal(_Line, line, 1) for line in whole[1:]]
        found = {row.text: None if row.trigger is None else row.trigger.made() for row in rows}
    except ValueError as error:
        raise ValueError(f"{journal} is damaged: remove it, or give another --output ({error}).") from error
    check_settings(journal, before, head, "remove it or give another --output to start anew")
    if max(found, default=0) >= count:
        raise ValueError(f"{journal} is damaged: remove it, or give another --output (text {max(found)} of {count}).")
    with writing("The journal", journal) as file:
        file.write_bytes(b"".join(whole))
    return found


def _digest(classifier: Classifier) -> str:
    """Compute a digest of the model's weights, as a folder may hold another model in the next run."""
    digest = hashlib.sha256()
    for name, tensor in classifier.model.state_dict().items():
        digest.update(name.encode() + bytes_of(tensor))
    return digest.hexdigest()
