"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from benchmarks import sanity
from benchmarks.sanity.checks import baselines, completeness, labels, model_randomisation, padding, signs
from benchmarks.sanity.report import write_report
from benchmarks.setup.command_line import add_texts, command_line, parsed
from benchmarks.setup.results import Store
from benchmarks.setup.sentences import Subject, texts_in_random_order
from captum_attattr.demo import REVIEWS


def measure(args: argparse.Namespace, store: Store) -> None:
    texts = texts_in_random_order(args.data, args.split, args.seed, args.limit)
    subject = Subject(args.model, args.steps)
    few = {place: subject.sentence(texts[place]) for place in list(texts)[: args.some]}
    sentences = list(few.values())
    for place, text in tqdm(texts.items(), desc="Completeness", unit="sentence"):
        store.get(f"completeness {place}", completeness, subject, text)
    for name, check in (("signs", signs), ("baselines", baselines)):
        for place, sentence in tqdm(few.items(), desc=name, unit="sentence"):
            store.get(f"{name} {place}", check, sentence)
    store.get("padding", padding, subject, list(texts.values())[:6])
    store.get("model", model_randomisation, subject, sentences[: args.models], args.seed)
    store.get("labels", labels, subject, args.data, sentences, args.train, args.epochs, args.seed)


def main() -> None:
    parser = command_line("sanity", sanity.__doc__)
    add_texts(parser, "a TSV file, or a folder with {split}.tsv and train.tsv", default=REVIEWS)
    parser.add_argument("--split", default="test")
    parser.add_argument("--some", type=int, default=100, help="sentences for signs, baselines and labels")
    parser.add_argument("--models", type=int, default=40, help="sentences for the randomised models")
    parser.add_argument("--train", type=int, default=2000, help="sentences to train the tiny models on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="evaluations on the path, for each sentence and layer")
    args = parsed(parser)
    named = ("split", "some", "models", "train", "epochs", "seed")
    settings = {"data": args.data.name, "model": args.model or "bundled", "n_steps": args.steps}
    settings |= {name: getattr(args, name) for name in named}
    store = Store(args.output / "sanity.jsonl", settings)
    measure(args, store)
    write_report(store.results, settings, args.output)


if __name__ == "__main__":
    main()
