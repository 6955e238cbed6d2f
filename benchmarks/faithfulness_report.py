"""From the records of benchmarks/faithfulness.py to figures with confidence intervals, tables, curves and sentences.

Every statement is made from the figures: "better" and "worse" are said only where the 95% interval of the paired
difference over sentences leaves out zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faithfulness_plot import plot
from faithfulness_words import pair_words, token_words
from machine import environment

Records = list[dict[str, Any]]
Interval = tuple[float, float, float]
"""Mean, and the ends of the 95% interval."""

HOWS = ("mask", "delete", "replace")
RESAMPLES = 1000


class Sample:
    """One number a sentence for each method; the random methods of all seeds are one, their mean."""

    def __init__(self, records: Records, part: str, value: Callable[[dict[str, Any]], Any], seed: int = 0) -> None:
        rows = [[value(entry) for entry in record[part].values()] for record in records]
        names, table = list(records[0][part]), np.array(rows, dtype=float)
        chance = [place for place, name in enumerate(names) if name.startswith("random ")]
        self.values = {name: table[:, place] for place, name in enumerate(names) if place not in chance}
        if chance:
            self.values["random"] = table[:, chance].mean(1)
        self._picks = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))

    def mean(self, method: str) -> Interval:
        return self._interval(self.values[method])

    def difference(self, one: str, other: str) -> Interval:
        """Of two methods on the same sentences."""
        return self._interval(self.values[one] - self.values[other])

    def best(self, methods: Sequence[str], *, lowest: bool = False) -> str:
        return sorted(methods, key=lambda m: (1 if lowest else -1) * float(np.nanmean(self.values[m])))[0]

    def _interval(self, values: np.ndarray) -> Interval:
        if np.isnan(values).all():
            return (float("nan"),) * 3
        known = ~np.isnan(values)
        sums = np.where(known, values, 0)[self._picks].sum(1) / np.maximum(known[self._picks].sum(1), 1)
        low, high = np.percentile(sums, [2.5, 97.5])
        return float(np.nanmean(values)), float(low), float(high)


def token_samples(records: Records, settings: dict[str, Any], seed: int) -> dict[str, Sample]:
    """By measure: comprehensiveness, sufficiency and log-odds (of each fraction, and their means), AOPC, seconds."""
    places = [settings["token_fractions"].index(fraction) for fraction in settings["fractions"]]
    few = list(range(1, 1 + len(places)))

    def points(entry: dict[str, Any], how: str) -> np.ndarray:
        curve = np.array(entry[how]["curve"])
        return curve[places if how == "mask" else few]

    def log_odds(entry: dict[str, Any], how: str) -> np.ndarray:
        p = np.clip([entry[how]["curve"][0], *points(entry, how)], 1e-15, 1 - 1e-15)
        odds = np.log(p / (1 - p))
        return odds[1:] - odds[0]

    found: dict[str, Sample] = {}

    def add(name: str, value: Callable[[dict[str, Any]], Any]) -> None:
        found[name] = Sample(records, "tokens", value, seed)

    for how in HOWS:
        add(f"comprehensiveness {how}", lambda e, h=how: (e[h]["curve"][0] - points(e, h)).mean())
        add(f"sufficiency {how}", lambda e, h=how: np.mean(e[h]["sufficiency"]))
        add(f"log-odds {how}", lambda e, h=how: log_odds(e, h).mean())
        for k, fraction in enumerate(settings["fractions"]):
            add(f"comprehensiveness {how} {fraction}", lambda e, h=how, k=k: e[h]["curve"][0] - points(e, h)[k])
            add(f"sufficiency {how} {fraction}", lambda e, h=how, k=k: e[h]["sufficiency"][k])
            add(f"log-odds {how} {fraction}", lambda e, h=how, k=k: log_odds(e, h)[k])
    tenths = [k for k, fraction in enumerate(settings["token_fractions"]) if fraction not in (0.05,)]
    add("aopc", lambda e: e["mask"]["curve"][0] - np.mean([e["mask"]["curve"][k] for k in tenths]))
    add("seconds", lambda e: e["seconds"])
    return found


def pair_samples(records: Records, settings: dict[str, Any], seed: int) -> dict[str, Sample]:
    """By name of measure: areas under the curves and their gap, in all layers and by layer; agreements."""
    xs, few = np.array(settings["edge_fractions"]), np.array(settings["layer_fractions"])

    def area(ys: Sequence[float], at: np.ndarray) -> float:
        return float(np.trapezoid(ys, at) / (at[-1] - at[0]))

    def layer_gap(entry: dict[str, Any]) -> float:
        if "layers most" not in entry:
            return float("nan")
        return float(np.mean([area(least, few) - area(most, few) for most, least in _layers(entry)]))

    def drop(entry: dict[str, Any], fraction: float) -> float:
        return entry["most"][0] - entry["most"][settings["edge_fractions"].index(fraction)]

    measures: dict[str, Callable[[dict[str, Any]], Any]] = {
        "most": lambda e: area(e["most"], xs),
        "least": lambda e: area(e["least"], xs),
        "gap": lambda e: area(e["least"], xs) - area(e["most"], xs),
        "gap by layer": layer_gap,
        "edges": lambda e: e["edges"],
        "heads": lambda e: e["heads"],
        "seconds": lambda e: e["seconds"],
    }
    for fraction in (0.001, 0.01, 0.1):
        measures[f"drop {fraction}"] = lambda e, f=fraction: drop(e, f)
    found = {name: Sample(records, "pairs", value, seed) for name, value in measures.items()}
    # By layer only one seed of the random scores was run: the mean over seeds must not be missing for that.
    found["gap by layer"].values["random"] = np.array([layer_gap(r["pairs"]["random 0"]) for r in records])
    return found


def _layers(entry: dict[str, Any]) -> list[tuple[list[float], list[float]]]:
    return list(zip(entry["layers most"], entry["layers least"], strict=True))


def write_report(records: Records, settings: dict[str, Any], output: Path) -> str:
    """Write faithfulness.json, .md and .png beside the records; returns the Markdown."""
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
    text = markdown(figures, tokens, pairs)
    (output / "faithfulness.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (output / "faithfulness.md").write_text(text, encoding="utf-8")
    return text


def markdown(figures: dict[str, Any], tokens: dict[str, Sample], pairs: dict[str, Sample]) -> str:
    s = figures["settings"]
    parts = [
        "# Faithfulness",
        f"{s['data']} ({s['split']}), {figures['sentences']} sentences in random order, {s['model']} model. F is the "
        "probability of the class that the model predicts. Special tokens are never removed; scores go by their value, "
        "the largest first. Intervals: 95%, bootstrap over sentences. Made by `python benchmarks/faithfulness.py` "
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
    parts.append("Environment: " + ", ".join(f"{k} {v}" for k, v in figures["environment"].items()) + ".")
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(interval: Interval) -> str:
    mean, low, high = interval
    return "" if np.isnan(mean) else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def seconds(sample: Sample, method: str) -> str:
    return f"{float(np.median(sample.values[method])):.3f}"
