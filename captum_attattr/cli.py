"""The command line: ``captum-attattr explain``."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers

from captum_attattr.explaining import explain
from captum_attattr.explanation import Explanation
from captum_attattr.quadrature import METHODS
from captum_attattr.visualization import visualize_explanation

_EXAMPLES = """examples:
  captum-attattr explain "The plot was interesting but the execution was poor."
  captum-attattr explain "A dull start." "A grand finish!" --output answers --no-special
  captum-attattr explain "How old are you?" --pair "What is your age?" --model textattack/bert-base-uncased-QQP
  captum-attattr explain --file reviews.tsv --json > answers.json

exit codes: 0 done, 2 something in the input or the settings is wrong, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {message}")
            _explain(options)
    except (ValueError, TypeError) as error:
        _tell(f"error: {error}")
        return 2
    except BrokenPipeError:
        # The reader has gone (as in "| head"): nothing more to say, and nothing to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return 0


def _tell(message: str) -> None:
    print(f"captum-attattr: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="captum-attattr", description="Explain Transformers by their attention.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser(
        "explain",
        help="which token pairs and heads a prediction rests on",
        description="Explain a text classifier's prediction: each token pair's share in it, head by head.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("text", nargs="*", help="texts to explain")
    add.add_argument("--pair", action="append", metavar="TEXT", help="second text of a pair, one for each text")
    add.add_argument("--file", metavar="TSV", help="read texts from a TSV file: column 'sentence', and 'pair' if there")
    add.add_argument("--model", metavar="NAME_OR_FOLDER", help="classification model (default: the bundled one)")
    add.add_argument("--target", metavar="LABEL", help="label to explain, name or number (default: the predicted)")
    add.add_argument("--logit", action="store_true", help="explain the label's logit instead of its probability")
    add.add_argument("--path", choices=("layerwise", "joint"), default="layerwise", help="one layer at a time, or all")
    add.add_argument("--method", choices=METHODS, default="gausslegendre", help="rule of integration")
    add.add_argument("--steps", type=int, default=20, metavar="N", help="evaluations on the path (default: 20)")
    add.add_argument("--top", type=int, default=8, metavar="K", help="how many pairs and heads to print (default: 8)")
    add.add_argument("--no-special", action="store_true", help="leave pairs with [CLS], [SEP] and the like out")
    add.add_argument("--output", metavar="FOLDER", default="explanations", help="where files go (default: %(default)s)")
    add.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _explain(options: argparse.Namespace) -> None:
    texts, pairs = _read(options)
    folder = _writable(options.output)
    target = int(options.target) if options.target and options.target.isdigit() else options.target
    explanations = explain(
        texts,
        options.model,
        text_pair=pairs,
        target=target,
        output="logit" if options.logit else "probability",
        path=options.path,
        n_steps=options.steps,
        method=options.method,
        show_progress=sys.stderr.isatty(),
    )
    written = [_write(explanation, folder, number) for number, explanation in enumerate(explanations, 1)]
    if options.json:
        answers = [e.to_dict(options.top, special=not options.no_special) for e in explanations]
        files = [{"picture": str(picture), "saved": str(saved)} for picture, saved in written]
        print(json.dumps([{**answer, "files": names} for answer, names in zip(answers, files, strict=True)], indent=2))
        return
    for explanation, (picture, saved) in zip(explanations, written, strict=True):
        print(describe(explanation, options.top, special=not options.no_special))
        print(f"\n  picture  {picture}\n  saved    {saved}\n")


def describe(explanation: Explanation, k: int = 8, *, special: bool = True) -> str:
    """The answer in words: prediction, completeness, strongest pairs and heads."""
    kind = explanation.settings["output"]
    lines = [f'"{explanation.text}"' + (f' | "{explanation.text_pair}"' if explanation.text_pair else "")]
    lines += [f"  prediction  {explanation.prediction} (probability {float(explanation.probabilities.max()):.3f})"]
    lines += [f"  explained   {kind} of {explanation.label!r}: {explanation.output:.4f}", ""]
    lines += _completeness(explanation)
    lines += ["", "  strongest token pairs, query -> key, summed over layers and heads (+ speaks for, - against)"]
    pairs, tokens = explanation.top_pairs(k, special=special), explanation.tokens
    lines += [f"    {pair.score:+.4f}  {tokens[pair.query]} -> {tokens[pair.key]}" for pair in pairs]
    lines += ["", "  strongest heads, by their share"]
    lines += [f"    {h.score:+.4f}  layer {h.layer}, head {h.head}" for h in explanation.top_heads(k)]
    return "\n".join(lines)


def _completeness(explanation: Explanation) -> list[str]:
    """For each layer: the output with its attention at the baseline, and what its shares add up to."""
    kind, baseline = explanation.settings["output"], explanation.settings["baseline"]
    joint = explanation.settings["path"] == "joint"
    names = ["all layers"] if joint else [f"layer {layer}" for layer in explanation.layers]
    lines = [
        f"  completeness: the {kind} with a layer's attention replaced (by {baseline}), and what its shares add up to"
    ]
    for name, start, gap in zip(names, explanation.baseline_output.tolist(), explanation.delta.tolist(), strict=True):
        difference = explanation.output - start
        lines.append(
            f"    {name:>10}  {start:.4f} {difference:+.4f} = {explanation.output:.4f}  (error {abs(gap):.0e})"
        )
    return lines


def _read(options: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    if options.file is None:
        if not options.text:
            raise ValueError('nothing to explain: give texts, as in explain "A fine film.", or --file TSV.')
        return options.text, options.pair
    if options.text or options.pair:
        raise ValueError("give texts on the command line or --file, not both.")
    try:
        with open(options.file, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{options.file} cannot be read: {error}") from error
    if not rows or "sentence" not in rows[0]:
        raise ValueError(f"{options.file} needs a header line with the column 'sentence', and at least one row.")
    texts = [row["sentence"] or "" for row in rows]
    return texts, [row["pair"] or "" for row in rows] if "pair" in rows[0] else None


def _writable(name: str) -> Path:
    """The folder for the answers, tried before the work is done and not after."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".captum-attattr"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"the output folder {name} cannot be written: {error}") from error
    return folder


def _write(explanation: Explanation, folder: Path, number: int) -> tuple[Path, Path]:
    words = re.findall(r"[a-z0-9]+", explanation.text.lower())[:6]
    stem = folder / f"{number:03d}-{'-'.join(words)[:60] or 'text'}"
    saved = explanation.save(stem.with_suffix(".safetensors"))
    picture = stem.with_suffix(".png")
    figure, _ = visualize_explanation(explanation)
    figure.savefig(picture)
    return picture, saved


if __name__ == "__main__":
    sys.exit(main())
