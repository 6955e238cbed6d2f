"""From the records of faithfulness to figures with confidence intervals, tables, curves and sentences.

Every statement is made from the figures: "better" and "worse" are said only where the 95% interval of the paired
difference over sentences leaves out zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faithfulness.curves import HOWS
from benchmarks.faithfulness.plot import plot
from benchmarks.faithfulness.samples import Interval, Records, Sample, pair_samples, token_samples
from benchmarks.faithfulness.words import pair_words, token_words
from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import publish, table


def write_report(records: Records, settings: dict[str, Any], output: Path) -> None:
    """Write faithfulness.json, .md and .png beside the records, and print the Markdown."""
    if not records:
        raise SystemExit("There are no records to report.")
    with_pairs = [record for record in records if "pairs" in record]
    tokens = token_samples(records, settings, settings["seed"])
    pairs = pair_samples(with_pairs, settings, settings["seed"]) if with_pairs else {}
    figures = {
        "settings": settings,
        "sentences": len(records),
        "sentences_with_pairs": len(with_pairs),
        "tokens": {measure: {m: sample.mean(m) for m in sample.values} for measure, sample in tokens.items()},
        "pairs": {measure: {m: sample.mean(m) for m in sample.values} for measure, sample in pairs.items()},
        "environment": environment(),
    }
    plot(records, with_pairs, settings, output / "faithfulness.png")
    publish(output / "faithfulness", figures, markdown(figures, tokens, pairs))


def markdown(figures: dict[str, Any], tokens: dict[str, Sample], pairs: dict[str, Sample]) -> str:
    s = figures["settings"]
    parts = [
        "# Faithfulness",
        f"{s['data']} ({s['split']}), {figures['sentences']} sentences in random order, {s['model']} model. F is the "
        "probability of the class that the model predicts. Special tokens are never removed; scores go by their value, "
        "the largest first. Intervals: 95%, bootstrap over sentences. Made by `python -m benchmarks.faithfulness` "
        "(its options are in the JSON file).",
        "## Tokens",
        token_words(tokens),
        TOKEN_LEGEND,
        token_table(tokens),
        "### At each fraction, tokens hidden by the mask",
        fraction_table(tokens, s["fractions"]),
        "![Curves](faithfulness.png)",
    ]
    if pairs:
        legend = PAIR_LEGEND.format(sentences=figures["sentences_with_pairs"], edges=s["edges"])
        parts += ["## Attention edges", pair_words(pairs), legend, pair_table(pairs)]
    parts.append(f"Environment: {line(figures['environment'])}.")
    return "\n\n".join(parts) + "\n"


TOKEN_LEGEND = (
    "Means over 5, 10, 20 and 50% of the tokens. Comprehensiveness: what F loses without the best tokens, higher is "
    "better. Sufficiency: what it loses with nothing but them, lower is better. Log-odds: how they change without the "
    "best tokens, lower is better. AOPC: mean loss over the whole curve. Tokens are hidden by the attention mask, "
    "deleted, or replaced by [MASK]. Seconds: processor time of the method alone for a sentence, median."
)

PAIR_LEGEND = (
    "{sentences} of the sentences. An edge (query, key, head, layer) is cut by setting its probability to 0, the rest "
    "of the row as it is: in all layers at once (the layers above are computed anew), or in one layer at a time (mean "
    "over layers). Gap: area between the curves of the least and of the most important first. Drop: what F loses "
    "without the most important 0.1, 1 and 10%. Single edges and heads: Spearman correlation of scores with the exact "
    "effect of leaving one out, over {edges} random edges of all layers and over all heads."
)


def token_table(tokens: dict[str, Sample]) -> str:
    measures = [f"{measure} {how}" for measure in ("comprehensiveness", "sufficiency", "log-odds") for how in HOWS]
    head = ["method", *(m.replace("comprehensiveness", "compr.").replace("sufficiency", "suff.") for m in measures)]
    rows = [
        [method, *(cell(tokens[m].mean(method)) for m in [*measures, "aopc"]), seconds(tokens["seconds"], method)]
        for method in tokens["aopc"].values
    ]
    return table([*head, "AOPC", "s"], rows)


def fraction_table(tokens: dict[str, Sample], fractions: Sequence[float]) -> str:
    measures = [f"{m} mask {f}" for m in ("comprehensiveness", "sufficiency", "log-odds") for f in fractions]
    head = [f"{m.split()[0].replace('comprehensiveness', 'compr.')} {float(m.split()[2]):.0%}" for m in measures]
    rows = [[method, *(f"{tokens[m].mean(method)[0]:.3f}" for m in measures)] for method in tokens["aopc"].values]
    return table(["method", *head], rows)


def pair_table(pairs: dict[str, Sample]) -> str:
    measures = ["gap", "gap by layer", "drop 0.001", "drop 0.01", "drop 0.1", "edges", "heads"]
    head = ["method", "gap, all layers", "gap, one layer", "drop 0.1%", "drop 1%", "drop 10%", "single edges", "heads"]
    rows = [
        [method, *(cell(pairs[m].mean(method)) for m in measures), seconds(pairs["seconds"], method)]
        for method in pairs["gap"].values
    ]
    return table([*head, "s"], rows)


def cell(interval: Interval) -> str:
    mean, low, high = interval
    return "" if np.isnan(mean) else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def seconds(sample: Sample, method: str) -> str:
    return f"{float(np.median(sample.values[method])):.3f}"
