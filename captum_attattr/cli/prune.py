"""``captum-attattr prune``: cut the least important heads out of a classifier."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from captum_attattr.attention import HeadNumbers, attention_layers
from captum_attattr.cli.options import add_data, add_model, add_output, count, fraction, new_command
from captum_attattr.cli.terminal import printable, writable
from captum_attattr.files.examples import Example, read_examples
from captum_attattr.heads.importance import Importance
from captum_attattr.pruning import prune_heads, save_pruned
from captum_attattr.text.accuracy import Accuracy
from captum_attattr.text.classifier import Classifier
from captum_attattr.text.model_loading import quiet

_EXAMPLES = """examples:
  captum-attattr prune --importance heads/heads.json --keep 0.5 --output half
  captum-attattr prune --importance heads/heads.json --top 3 --data reviews.tsv
  captum-attattr explain "A warm, funny film." --model half

FOLDER then holds the pruned model and its tokenizer; captum_attattr.load_pruned(FOLDER) loads it. On SST-2 the
importance of heads --measure taylor, with each layer's scores normalised, kept the most accuracy
(benchmarks/results/pruning.md).
"""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = new_command(
        commands,
        "prune",
        help="cut the least important heads out",
        description="Cut the least important attention heads out of a text classifier, and save what is left.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--importance", required=True, metavar="JSON", help="the file of captum-attattr heads for this model"
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--keep", type=fraction, metavar="FRACTION", help="fraction of all heads to keep")
    wanted.add_argument("--top", type=count, metavar="K", help="keep the K most important heads of each layer")
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --keep: divide each layer's scores by their norm before heads are compared (default: yes)",
    )
    add_model(parser)
    add_data(parser, required=False, split="test")
    add_output(parser, "pruned", "the model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> None:
    importance = Importance.load(options.importance)
    examples = None
    if options.data is not None:
        examples = read_examples(options.data, options.split, labelled=True, limit=options.limit, seed=options.seed)
    folder = writable(options.output)
    classifier = Classifier(options.model, None, "probability")
    model = classifier.model
    _check_shape(importance, [HeadNumbers.from_layer(layer).total for layer in attention_layers(model)])
    if options.top is not None:
        heads = importance.outside_top(options.top)
    else:
        heads = importance.lowest(1 - options.keep, "l2" if options.normalize else None)
    before = _figures(classifier, examples)
    prune_heads(model, heads)
    after = _figures(classifier, examples)
    with quiet(progress=False):
        save_pruned(model, folder, classifier.tokenizer)
    found = {"removed": heads, "before": before, "after": after, "saved": str(folder)}
    print(json.dumps(found, indent=2) if options.json else printable(_describe(found, len(examples or []))))


def _check_shape(importance: Importance, heads: Sequence[int]) -> None:
    layers, width = importance.scores.shape
    if (layers, width) != (len(heads), max(heads)):
        raise ValueError(
            f"The importance is of a model with {layers} layers of {width} heads, this one has {len(heads)} of "
            f"{max(heads)}: measure it with captum-attattr heads on the same --model."
        )


def _figures(classifier: Classifier, examples: Sequence[Example] | None) -> dict[str, Any]:
    layers = attention_layers(classifier.model)
    figures: dict[str, Any] = {
        "heads": sum(len(HeadNumbers.from_layer(layer).remaining) for layer in layers),
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
    }
    if examples is not None:
        figures["accuracy"] = _accuracy(classifier, examples)
    return figures


def _accuracy(classifier: Classifier, examples: Sequence[Example]) -> float:
    if not classifier.has_classes:
        raise ValueError("The model has one label, or none (regression), and so no accuracy: leave --data out.")
    return Accuracy.from_examples(classifier, examples).total


def _describe(found: dict[str, Any], examples: int) -> str:
    before, after = found["before"], found["after"]
    lines = [
        f"  heads       {before['heads']} -> {after['heads']}",
        f"  parameters  {before['parameters']:,} -> {after['parameters']:,} "
        f"({after['parameters'] / before['parameters'] - 1:+.1%})",
    ]
    if "accuracy" in before:
        lines.append(f"  accuracy    {before['accuracy']:.4f} -> {after['accuracy']:.4f} ({examples} texts)")
    return "\n".join([*lines, "", f"  saved       {found['saved']}"])
