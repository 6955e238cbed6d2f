"""From the measurements on a GPU to tables."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.decoder import FIXED_STEPS, MOST_STEPS
from benchmarks.gpu.sizes import TOLERANCE, Sizes
from benchmarks.setup.machine import line
from benchmarks.setup.results import table

CLASSIFIER_HEAD = (
    "", "sentences", "method", "seconds", "**sentences a second**", "times ours", "MiB", "rows a run", "evaluations",
)  # fmt: skip
DECODER_HEAD = ("", "path", "to", "seconds", "evaluations", "largest gap", "MiB")


def classifier_rows(cases: list[dict[str, Any]]) -> list[list[str]]:
    """A method each, in the order in which they were measured: ours comes first."""
    rows = []
    for case in cases:
        if "evaluations" in case:
            ours = case["seconds"]
        mark = "~" if case.get("estimated") else ""
        rows.append([
            case["dtype"], str(case["batch"]), case["how"], f"{mark}{case['seconds']:.3g}",
            f"**{mark}{case['per_second']:.3g}**", f"{case['seconds'] / ours:.2g}", memory(case),
            str(case.get("rows", "")), f"{case['evaluations']:.1f}" if "evaluations" in case else "",
        ])  # fmt: skip
    return rows


def decoder_rows(cases: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            case["dtype"], case["path"], f"tolerance {TOLERANCE}" if case["reached"] else f"{FIXED_STEPS} steps",
            f"{case['seconds']:.3g}", f"{case['evaluations']:.1f}", f"{case['gap']:.1e}", memory(case),
        ]
        for case in cases
    ]  # fmt: skip


def memory(case: dict[str, Any]) -> str:
    return "" if case["mebibytes"] is None else f"{case['mebibytes']:,.0f}"


def markdown(figures: dict[str, Any], sizes: Sizes) -> str:
    layers, width, _ = sizes.classifier
    settings, shape = figures["settings"], sizes.decoder
    return f"""# On a GPU

Made by `python -m benchmarks.gpu`; {line(figures["environment"])}. Random weights; float32 without TF32.
Seconds are medians of {settings["repeats"]} runs after one that does not count, or those of a first run that takes more
than {settings["patience"]:.0f} s; memory is the peak of what torch holds, above the loaded model.

## A classifier: all pairs of all heads of all layers

BERT with {layers} layers of width {width}, {sizes.tokens} tokens. Captum's methods get the number of rows a run of the
model, of several that were tried, with which they are fastest; ours fills up to half of the free memory. "~": the first
and the last layer were timed, the rest is filled in. Token-level integrated gradients give one score a token.

{table(CLASSIFIER_HEAD, classifier_rows(figures["classifier"]))}

## A decoder: head scores of all layers

Llama with {shape["num_hidden_layers"]} layers of width {shape["hidden_size"]}, {shape["num_attention_heads"]} heads in
{shape["num_key_value_heads"]} groups, one text of {sizes.decoder_tokens:,} tokens, `reduce="sum"`: to tolerance
{TOLERANCE}, or with {FIXED_STEPS} steps where {MOST_STEPS} did not suffice for it. The tolerance allows a gap that
the rounding of the output alone may cause: in bfloat16 a wide one.

{table(DECODER_HEAD, decoder_rows(figures["decoder"]))}
"""
