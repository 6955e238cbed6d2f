"""``captum-attattr explain``: which words act together in a prediction, and by which heads."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captum_attattr.cli.answers import describe
from captum_attattr.cli.options import add_explained, add_model, add_output, count, layer_numbers, new_command, start
from captum_attattr.cli.progress import Progress
from captum_attattr.cli.terminal import printable, writable
from captum_attattr.engine.path_kinds import PATHS
from captum_attattr.engine.quadrature import METHODS
from captum_attattr.files.examples import read_examples, texts_and_pairs
from captum_attattr.files.writing import writing
from captum_attattr.pictures.explanations import visualize_explanation
from captum_attattr.report import Report, bokeh_source
from captum_attattr.text.classifier import Classifier
from captum_attattr.text.explaining import Explainer, integration_of, path_of
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.request import Request

_EXAMPLES = """examples:
  captum-attattr explain "The plot was interesting but the execution was poor."
  captum-attattr explain "A dull start." "A grand finish!" --output answers --html
  captum-attattr explain "How old are you?" --pair "What is your age?" --model textattack/bert-base-uncased-QQP
  captum-attattr explain "Not bad at all." --layers
  captum-attattr explain --file reviews.csv --column review --json > answers.json
  echo "A warm, funny film." | captum-attattr explain --file -
"""

_PAGE = "explanations.html"


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = new_command(
        commands,
        "explain",
        help="which words act together in a prediction",
        description="Explain a text classifier's prediction by its attention: what is read, and which words act "
        "together.",
        epilog=_EXAMPLES,
    )
    _add_texts(parser)
    add_model(parser)
    parser.add_argument("--target", metavar="LABEL", help="label to explain, name or number (default: the predicted)")
    add_explained(parser, "log-odds")
    parser.add_argument(
        "--layers",
        nargs="?",
        const=True,
        default=False,
        type=layer_numbers,
        metavar="N,N",
        help="also explain what each layer adds by itself, of all layers or of these",
    )
    parser.add_argument(
        "--path",
        choices=tuple(PATHS),
        default="joint",
        help="joint: scale the attention of all layers together, so that all attributions add up; layerwise: of one "
        "layer at a time (default: joint)",
    )
    parser.add_argument(
        "--baseline",
        type=start,
        metavar="START",
        help="attention to start from: 'uniform' or a number (default: none at all)",
    )
    _add_integration(parser)
    parser.add_argument("--top", type=count, default=8, metavar="K", help="how many lines a part has (default: 8)")
    parser.add_argument("--no-special", action="store_true", help="leave out special tokens ([CLS], [SEP])")
    parser.add_argument("--pieces", action="store_true", help="show the tokenizer's pieces, not words")
    add_output(parser, "explanations")
    parser.add_argument(
        "--html",
        action="store_true",
        help="also write one page to explore all the texts (needs captum-attattr[report])",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON (a list with one object a text) instead of text"
    )
    parser.set_defaults(run=_explain)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="*", help="texts to explain")
    parser.add_argument("--pair", action="append", metavar="TEXT", help="second text of a pair, one for each text")
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="read texts from a file: .tsv or .csv with the column 'sentence' or 'text', and 'pair' if there; .jsonl "
        "with the same names; others with a text a line; - for standard input",
    )
    parser.add_argument("--column", metavar="NAME", help="the column of --file with the texts")


def _add_integration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="PART",
        help="relative error to reach, with as few evaluations as possible (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="maximum of evaluations on a path (default: 1000; of other rules: 20)"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="gausslegendre",
        metavar="RULE",
        help=f"integrate by another rule, with N evaluations, in place of --tolerance: {', '.join(METHODS[:-1])}",
    )


def _explain(options: argparse.Namespace) -> None:
    settings = integration_of(options.tolerance, options.steps, options.method)
    texts, pairs = _read(options)
    request = Request.from_arguments(texts, pairs, options.target)
    folder = writable(options.output)
    if options.html:
        _check_page()
    classifier = Classifier(options.model, None, options.output_kind)
    path = path_of(options.path, None)
    explainer = Explainer(classifier, None, path, settings, options.baseline, options.layers)
    progress = Progress(folder, explainer, request)
    try:
        for place, explanation in _each(explainer, request, progress):
            # Written one by one: many long texts do not fill memory, and an interrupt keeps the finished ones.
            if place not in progress.saved:
                progress.done(place, _write(explanation, folder, place + 1, options.pieces))
            if not options.json:
                print(printable(_in_words(explanation, progress, place, options)), flush=True)
    except KeyboardInterrupt:
        _finish(progress, folder, options)
        raise
    _finish(progress, folder, options)
    progress.forget()


def _each(explainer: Explainer, request: Request, progress: Progress) -> Iterator[tuple[int, Explanation]]:
    """Yield the explanations of an interrupted run, then those that are left, each with the index of its text."""
    for place in sorted(progress.saved):
        yield place, progress.explanation(place)
    left = [place for place in range(len(request.texts)) if place not in progress.saved]
    if left:
        for place, explanation in explainer.explain_each(request.select(left), show_progress=sys.stderr.isatty()):
            yield left[place], explanation


def _finish(progress: Progress, folder: Path, options: argparse.Namespace) -> None:
    """Write the page, and the JSON, of the texts that are done."""
    places = sorted(progress.saved)
    if options.html and places:
        Report([progress.explanation(place) for place in places]).save(folder / _PAGE)
        if not options.json:
            print(printable(f"page  {folder / _PAGE}"))
    if options.json:
        print(json.dumps([_as_data(progress, place, folder, options) for place in places], indent=2))
    if len(places) < progress.count > 1:
        print(
            f"captum-attattr: {len(places)} of {progress.count} texts are done, in {folder}: the same command goes on.",
            file=sys.stderr,
        )


def _as_data(progress: Progress, place: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    explanation = progress.explanation(place)
    shown = explanation if options.pieces else explanation.words
    files = progress.files(place) | ({"page": folder / _PAGE} if options.html else {})
    found = shown.to_dict(options.top, special=not options.no_special)
    return {**found, "files": {what: str(path) for what, path in files.items()}}


def _in_words(explanation: Explanation, progress: Progress, place: int, options: argparse.Namespace) -> str:
    """Return the answer to a text, with its files."""
    which = f"[{place + 1} of {progress.count}] " if progress.count > 1 else ""
    words = describe(explanation, options.top, special=not options.no_special, pieces=options.pieces)
    return "\n".join([which + words, "", *(f"  {what:<7}  {path}" for what, path in progress.files(place).items()), ""])


def _read(options: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    if options.file is None:
        if options.column:
            raise ValueError("--column is for --file: which file?")
        if not options.text:
            raise ValueError('nothing to explain: give texts, as in explain "A fine film.", or --file FILE.')
        return options.text, options.pair
    if options.text or options.pair:
        raise ValueError("give texts on the command line or --file, not both.")
    return texts_and_pairs(read_examples(options.file, column=options.column))


def _check_page() -> None:
    """Check before the work that the page can be drawn."""
    try:
        bokeh_source()
    except ImportError as error:
        raise ValueError(str(error)) from error


def _write(explanation: Explanation, folder: Path, number: int, pieces: bool) -> str:
    """Write the explanation and its picture; return the stem of their names."""
    words = re.findall(r"[a-z0-9]+", explanation.text.lower())[:6]
    stem = f"{number:03d}-{'-'.join(words)[:60] or 'text'}"
    explanation.save(folder / f"{stem}.safetensors")
    figure, _ = visualize_explanation(explanation, pieces=pieces)
    with writing("The picture", folder / f"{stem}.png") as file:
        figure.savefig(file)
    return stem
