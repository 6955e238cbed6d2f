"""``captum-attattr heads``: the importance of each head over a data set."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from captum_attattr.cli.options import add_data, add_explained, add_model, add_output, count, new_command
from captum_attattr.cli.terminal import printable, writable
from captum_attattr.files.examples import read_examples
from captum_attattr.files.writing import writing
from captum_attattr.heads import MEASURES
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.heads.processes import joined, rank_and_size
from captum_attattr.pictures.head_map import visualize_head_importance
from captum_attattr.text.classifier import Classifier

_EXAMPLES = """examples:
  captum-attattr heads --data reviews.tsv
  captum-attattr heads --data sst2 --split dev --limit 200 --measure taylor --output taylor
  torchrun --nproc-per-node 2 -m captum_attattr.cli heads --data sst2 --limit 800 --measure ablation

FOLDER then holds heads.json, which captum-attattr prune takes, and heads.png. While it runs, it keeps a checkpoint
there, heads.state.json: the same command continues an interrupted run.
"""

# A line has room for this many heads.
_WIDEST = 16


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = new_command(
        commands,
        "heads",
        help="how much each head matters over a data set",
        description="Measure how much each attention head of a text classifier matters, over labelled texts.",
        epilog=_EXAMPLES,
    )
    add_data(parser, required=True, split="dev")
    add_model(parser)
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="attattr",
        metavar="NAME",
        help=f"{', '.join(MEASURES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--target", choices=("gold", "predicted"), default="gold", help="label whose output counts (default: gold)"
    )
    add_explained(parser, "probability")
    parser.add_argument("--batch-size", type=count, default=16, metavar="N", help="texts at a time (default: 16)")
    parser.add_argument("--top", type=count, default=8, metavar="K", help="how many heads to list (default: 8)")
    add_output(parser, "heads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_heads)


def _heads(options: argparse.Namespace) -> None:
    folder = writable(options.output)
    labelled = options.target == "gold"
    examples = read_examples(options.data, options.split, labelled=labelled, limit=options.limit, seed=options.seed)
    with joined() as device:
        classifier = Classifier(options.model, None, options.output_kind)
        scorer = HeadImportance(
            classifier.model.to(device), measure=options.measure, output=classifier.output, target=options.target
        )
        state = folder / "heads.state.json"
        importance = scorer.run(
            examples,
            tokenizer=classifier.tokenizer,
            batch_size=options.batch_size,
            checkpoint=state,
            show_progress=sys.stderr.isatty(),
        )
        rank, _ = rank_and_size()
    if rank == 0:
        _answer(importance, folder, options)
    # Only here: if the command ends before, the checkpoint stays.
    (state if rank == 0 else Path(f"{state}.{rank}")).unlink(missing_ok=True)


def _answer(importance: Importance, folder: Path, options: argparse.Namespace) -> None:
    saved = importance.save(folder / "heads.json")
    picture = folder / "heads.png"
    figure, _ = visualize_head_importance(importance, use_pyplot=False)
    with writing("The picture", picture) as file:
        figure.savefig(file)
    if options.json:
        print(json.dumps({**importance.to_dict(), "files": {"picture": str(picture), "saved": str(saved)}}, indent=2))
    else:
        print(printable(f"{describe(importance, options.top)}\n\n  picture  {picture}\n  saved    {saved}"))


def describe(importance: Importance, k: int = 8) -> str:
    """Describe an importance in words: the map, and the most and least important heads with standard errors."""
    i, settings = importance, importance.settings
    given = settings["output"] == "given"
    what = "the model's output" if given else f"{settings['output']} of the {settings['target']} label"
    lines = [f"importance of heads by {i.measure}, {what}, mean over {i.examples} examples"]
    if i.scores.shape[1] <= _WIDEST:
        lines += ["", *_grid(i)]
    ranking = i.ranking()
    some = min(k, len(ranking))
    for title, heads in (("most", ranking[:some]), ("least", ranking[: -some - 1 : -1])):
        lines += ["", f"  {title} important heads (+- standard error)"]
        lines += [f"    layer {h.layer:>2}, head {h.head:>2}  {h.score:+.5f} +- {h.error:.5f}" for h in heads]
    return "\n".join(lines)


def _grid(importance: Importance) -> list[str]:
    """Write a row for each layer and a column for each head, as whole numbers in units of one power of ten."""
    scores = importance.scores
    largest = float(scores.nan_to_num(0).abs().max())
    power = math.floor(math.log10(largest)) - 2 if largest > 0 else 0
    rows = [["-" if math.isnan(x) else f"{x / 10.0**power:.0f}" for x in row] for row in scores.tolist()]
    heads = [str(head) for head in range(scores.shape[1])]
    width = max(len(word) for row in [heads, *rows] for word in row)
    head_line = " ".join(f"{head:>{width}}" for head in heads)
    lines = [f"  in units of 1e{power}, layers down, heads across", f"       {head_line}"]
    return lines + [f"    {n:>2} {' '.join(f'{word:>{width}}' for word in row)}" for n, row in enumerate(rows)]
