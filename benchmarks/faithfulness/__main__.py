"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

import argparse
from typing import Any

from tqdm import tqdm

from benchmarks import faithfulness
from benchmarks.faithfulness.curves import (
    EDGE_FRACTIONS,
    LAYER_FRACTIONS,
    TOKEN_FRACTIONS,
    measure_pairs,
    measure_tokens,
)
from benchmarks.faithfulness.report import write_report
from benchmarks.setup.command_line import add_texts, command_line, parsed
from benchmarks.setup.results import Store
from benchmarks.setup.sentences import Subject, texts_in_random_order
from captum_attattr.demo import REVIEWS
from captum_attattr.faithfulness import FRACTIONS


def measure(args: argparse.Namespace, store: Store) -> None:
    """Add the results of each sentence that the store does not hold yet."""
    texts = texts_in_random_order(args.data, args.split, args.seed, args.limit)
    subject = Subject(args.model, args.steps)
    for number, (place, text) in enumerate(tqdm(texts.items(), desc="Sentences", unit="sentence")):
        sentence = subject.sentence(text)
        store.get(f"tokens {place}", measure_tokens, sentence, args.random)
        if number < args.pairs:
            store.get(f"pairs {place}", measure_pairs, sentence, args.random, args.edges, args.seed)


def all_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What every record of a file must have in common."""
    return {
        "data": args.data.name,
        "split": args.split,
        "model": args.model or "bundled",
        "seed": args.seed,
        "random": args.random,
        "edges": args.edges,
        "n_steps": args.steps,
        "token_fractions": [0.0, *TOKEN_FRACTIONS],
        "fractions": list(FRACTIONS),
        "edge_fractions": [0.0, *EDGE_FRACTIONS],
        "layer_fractions": [0.0, *LAYER_FRACTIONS],
    }


def records_of(store: Store) -> list[dict[str, Any]]:
    """A sentence each: its token level and, where it was measured, its pair level."""
    records: dict[str, dict[str, Any]] = {}
    for name, result in store.results.items():
        part, place = name.split()
        records.setdefault(place, {})[part] = result
    return list(records.values())


def main() -> None:
    parser = command_line("faithfulness", faithfulness.__doc__)
    add_texts(parser, "a TSV file, or a folder with {split}.tsv", default=REVIEWS)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pairs", type=int, default=200, help="so many of them for the pair level, which costs more")
    parser.add_argument("--edges", type=int, default=100, help="single edges of a sentence to leave out one at a time")
    parser.add_argument("--random", type=int, default=5, help="seeds of the random scores")
    parser.add_argument("--steps", type=int, default=6, help="evaluations on the path of our method, for each layer")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    args = parsed(parser)
    if args.random < 1 or args.pairs < 0:
        parser.error("--random must be at least 1, --pairs at least 0")
    settings = all_settings(args)
    store = Store(args.output / "faithfulness.jsonl", settings)
    if not args.report:
        measure(args, store)
    write_report(records_of(store), settings, args.output)


if __name__ == "__main__":
    main()
