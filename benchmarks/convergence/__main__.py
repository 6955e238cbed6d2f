"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

import argparse
import copy

from tqdm import tqdm

from benchmarks import convergence
from benchmarks.convergence.cases import measured
from benchmarks.convergence.report import markdown, plot, summarized
from benchmarks.setup.command_line import add_texts, command_line, parsed, settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store
from captum_attattr.attribution.self_attention import PathName
from captum_attattr.files.examples import read_examples
from captum_attattr.text.classifier import Classifier
from captum_attattr.text.model_output import OfLabel

OUTPUTS: tuple[OfLabel, ...] = ("probability", "logit")
PATHS: tuple[PathName, ...] = ("layerwise", "joint")


def measure(args: argparse.Namespace, store: Store) -> None:
    examples = read_examples(args.data, limit=args.limit, seed=args.seed)
    for output in OUTPUTS:
        classifier = Classifier(args.model, None, output)
        exact = Classifier(copy.deepcopy(classifier.model).double(), classifier.tokenizer, output)
        classifier.outputs(*next(iter(classifier.batches([examples[0].text], None, 1))).inputs)  # the first is slow
        for path in PATHS:
            for place, example in enumerate(tqdm(examples, desc=f"F = {output}, {path}", unit="sentence")):
                store.get(f"{output} {path} {place}", measured, classifier, exact, example.text, path, args.reference)


def main() -> None:
    parser = command_line("convergence", convergence.__doc__, threads=2)
    add_texts(parser, "TSV file, or folder with test.tsv", limit=6)
    parser.add_argument("--reference", type=int, default=128, help="Gauss-Legendre nodes of the reference")
    args = parsed(parser)
    settings = settings_of(args, "data")
    store = Store(args.output / "convergence.jsonl", settings)
    measure(args, store)
    figures = {"settings": settings, "environment": environment(), "figures": summarized(store.results)}
    plot(figures["figures"], args.output / "convergence.png")
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
