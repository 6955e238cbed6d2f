"""``captum-attattr explain``: the token pairs and heads that a prediction rests on."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_attattr.cli.options import add_explained, add_model, add_output, count, new_command
from captum_attattr.cli.terminal import printable, writable
from captum_attattr.engine.path_kinds import PATHS
from captum_attattr.engine.quadrature import METHODS
from captum_attattr.files.examples import read_examples, texts_and_pairs
from captum_attattr.files.writing import writing
from captum_attattr.pictures.explanations import visualize_explanation
from captum_attattr.report import Report, bokeh_source
from captum_attattr.text.classifier import Classifier
from captum_attattr.text.explaining import Explainer, integration_of
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.request import Request

_EXAMPLES = """examples:
  captum-attattr explain "The plot was interesting but the execution was poor."
  captum-attattr explain "A dull start." "A grand finish!" --output answers --no-special
  captum-attattr explain "How old are you?" --pair "What is your age?" --model textattack/bert-base-uncased-QQP
  captum-attattr explain --file reviews.tsv --json > answers.json
  captum-attattr explain "A dull start." "A grand finish!" --html
"""

# A gap above this fraction of the norm of a layer's attributions is reported; below it the true error is small, too.
_WIDE_GAP = 0.01

_PAGE = "explanations.html"


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = new_command(
        commands,
        "explain",
        help="which token pairs and heads a prediction rests on",
        description="Explain a text classifier's prediction: attributions of token pairs, head by head.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("text", nargs="*", help="texts to explain")
    parser.add_argument("--pair", action="append", metavar="TEXT", help="second text of a pair, one for each text")
    parser.add_argument(
        "--file", metavar="TSV", help="read texts from a TSV file: column 'sentence', and 'pair' if there"
    )
    add_model(parser)
    parser.add_argument("--target", metavar="LABEL", help="label to explain, name or number (default: the predicted)")
    add_explained(parser)
    parser.add_argument(
        "--path",
        choices=tuple(PATHS),
        default="layerwise",
        help="layerwise: scale the attention of one layer at a time, best for layers and heads; joint: of all layers "
        "together, best for tokens and needed for the tree on the page of --html (default: layerwise)",
    )
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
    parser.add_argument(
        "--top", type=count, default=8, metavar="K", help="how many pairs and heads to print (default: 8)"
    )
    parser.add_argument("--no-special", action="store_true", help="leave out pairs with special tokens ([CLS], [SEP])")
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


def _explain(options: argparse.Namespace) -> None:
    settings = integration_of(options.tolerance, options.steps, options.method)
    texts, pairs = _read(options)
    request = Request.from_arguments(texts, pairs, options.target)
    folder = writable(options.output)
    if options.html:
        _check_page()
    classifier = Classifier(options.model, None, options.explain)
    explainer = Explainer(classifier, None, options.path, settings)
    answers: dict[int, Any] = {}
    saved: dict[int, Path] = {}
    # Written one by one: many long texts do not fill memory, and an interrupt keeps the finished ones.
    for place, explanation in explainer.explain_each(request, show_progress=sys.stderr.isatty()):
        files = _write(explanation, folder, place + 1)
        saved[place] = files["saved"]
        answers[place] = _answer(explanation, files | ({"page": folder / _PAGE} if options.html else {}), options)
    in_order = range(len(answers))
    if options.html:
        Report([Explanation.load(saved[place]) for place in in_order]).save(folder / _PAGE)
    found = [answers[place] for place in in_order]
    print(json.dumps(found, indent=2) if options.json else printable("\n".join(found)))


def _answer(explanation: Explanation, files: dict[str, Path], options: argparse.Namespace) -> Any:
    """Return the output for a text, as words or as data for JSON."""
    special = not options.no_special
    if options.json:
        return {**explanation.to_dict(options.top, special=special), "files": {k: str(v) for k, v in files.items()}}
    names = [f"  {what:<7}  {path}" for what, path in files.items()]
    return "\n".join([describe(explanation, options.top, special=special), "", *names, ""])


def describe(explanation: Explanation, k: int = 8, *, special: bool = True) -> str:
    """Describe an explanation in words: prediction, completeness, strongest pairs and heads."""
    e, what = explanation, explanation.explained
    lines = [" | ".join(f'"{_short(text)}"' for text in (e.text, e.text_pair) if text is not None)]
    if e.output_name == "output":
        name = "" if len(e.labels) == 1 else f", {e.label!r}"
        lines += [f"  prediction  {e.output:.4f} (a regression model's output{name})", ""]
    else:
        lines += [f"  prediction  {e.prediction} (probability {float(e.probabilities.max()):.3f})"]
        lines += [f"  explained   {what}, {e.output:.4f}", ""]
    lines += _completeness(e, what)
    lines += ["", f"  strongest token pairs, who looks -> at whom (+ raises the {what}, - lowers it)"]
    tokens = e.token_names
    pairs = [f"{tokens[pair.query]} -> {tokens[pair.key]}" for pair in e.top_pairs(k, special=special)]
    lines += _scored([pair.score for pair in e.top_pairs(k, special=special)], pairs)
    lines += ["", "  strongest heads (layers and heads count from 0)"]
    lines += _scored([h.score for h in e.top_heads(k)], [f"layer {h.layer}, head {h.head}" for h in e.top_heads(k)])
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def _scored(scores: Sequence[float], names: Sequence[str]) -> list[str]:
    """Write a line for each name and score, with aligned numbers."""
    numbers = [f"{score:+.4f}" for score in scores]
    width = max(map(len, numbers), default=0)
    return [f"    {number:>{width}}  {name}" for number, name in zip(numbers, names, strict=True)] or ["    none"]


def _completeness(explanation: Explanation, what: str) -> list[str]:
    """Write for each layer: the output without its attention + its attributions = the output, and the gap."""
    e, joint = explanation, explanation.layers_add_up
    baseline = e.settings.get("baseline", "no attention")
    whose, sums = ("all attention", "all attributions") if joint else ("a layer's attention", "its attributions")
    start = f"without {whose}" if baseline == "no attention" else f"with {whose} at {baseline}"
    names = ["all layers"] if joint else [f"layer {layer}" for layer in e.layers]
    sizes = (e.attributions.unsqueeze(0) if joint else e.attributions).flatten(1).norm(dim=1)
    wide = (e.delta.abs() > _WIDE_GAP * sizes + 1e-6).tolist()
    rows = [
        (f"{first:.4f}", f"{e.output + gap - first:+.4f}", f"{e.output + gap:.4f}", f"  off by {gap:+.0e}" * is_wide)
        for first, gap, is_wide in zip(e.baseline_output.tolist(), e.delta.tolist(), wide, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    verdict = "NOT reached, try more --steps"
    if not any(wide):
        spent = " to ".join(str(n) for n in sorted({min(e.evaluations), max(e.evaluations)})) if e.evaluations else "?"
        verdict = f"error {float(e.delta.abs().max()):.0e} at most, {spent} evaluations a layer"
    return [
        f"  completeness: {start} + {sums} = {what} ({verdict})",
        *(
            f"    {name:<{len(names[-1])}}  {first:>{widths[0]}} {added[0]} {added[1:]:>{widths[1] - 1}} = "
            f"{total:>{widths[2]}}{gap}"
            for name, (first, added, total, gap) in zip(names, rows, strict=True)
        ),
    ]


def _read(options: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    if options.file is None:
        if not options.text:
            raise ValueError('nothing to explain: give texts, as in explain "A fine film.", or --file TSV.')
        return options.text, options.pair
    if options.text or options.pair:
        raise ValueError("give texts on the command line or --file, not both.")
    return texts_and_pairs(read_examples(options.file))


def _check_page() -> None:
    """Check before the work that the page can be drawn."""
    try:
        bokeh_source()
    except ImportError as error:
        raise ValueError(str(error)) from error


def _write(explanation: Explanation, folder: Path, number: int) -> dict[str, Path]:
    words = re.findall(r"[a-z0-9]+", explanation.text.lower())[:6]
    stem = folder / f"{number:03d}-{'-'.join(words)[:60] or 'text'}"
    saved = explanation.save(stem.with_suffix(".safetensors"))
    picture = stem.with_suffix(".png")
    figure, _ = visualize_explanation(explanation)
    with writing("The picture", picture) as file:
        figure.savefig(file)
    return {"picture": picture, "saved": saved}
