"""Tables and sentences of sanity, made from its records."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import publish, table

KINDS = ("shares", "magnitudes", "cosine", "tokens")
Records = dict[str, Any]


def write_report(records: Records, settings: dict[str, Any], output: Path) -> None:
    """Write sanity.json and sanity.md, and print the Markdown."""
    figures = {
        "settings": settings,
        "completeness": completeness(of_kind(records, "completeness")),
        "signs": signs(of_kind(records, "signs")),
        "baselines": baselines(of_kind(records, "baselines")),
        "baseline sentences": len(of_kind(records, "baselines")),
        "padding": records["padding"],
        "model sentences": len(records["model"][0]["likeness"]["shares"]),
        "model": [of_part(record) for record in records["model"]],
        "labels": labels(records["labels"]),
        "environment": environment(),
    }
    publish(output / "sanity", figures, markdown(figures))


def of_part(record: Any) -> Records:
    found = {kind: mean(record["likeness"][kind]) for kind in KINDS}
    return found | {"part": record["part"], "strength": mean(np.abs(record["likeness"]["shares"]))}


def of_kind(records: Records, kind: str) -> list[Any]:
    return [record for key, record in records.items() if key.startswith(f"{kind} ")]


def mean(values: ArrayLike) -> float:
    return float(np.nanmean(np.asarray(values)))


def completeness(records: list[Any]) -> dict[str, Any]:
    """By layer, quantiles over sentences of |gap| in units of F, and relative to the norm of the attributions."""
    gaps = np.abs([r["delta"] for r in records])
    relative = gaps / np.array([r["norm"] for r in records])
    levels = [50, 95, 99, 100]
    return {
        "sentences": len(records),
        "levels": levels,
        "gap": np.percentile(gaps, levels, axis=0).T.tolist(),
        "relative": np.percentile(relative, levels, axis=0).T.tolist(),
        "sum": np.mean([r["sum"] for r in records], axis=0).tolist(),
    }


def signs(records: list[Any]) -> dict[str, Any]:
    """Of each removal: share of cases in which F rises, and its mean change."""
    found: dict[str, Any] = {"sentences": len(records)}
    for name in ("negative", "random"):
        everywhere = np.array([r[name]["all layers"] - r["output"] for r in records])
        alone = np.array([np.array(r[name]["one layer"]) - r["output"] for r in records])
        found[name] = {
            "all layers": {"rises": mean(everywhere > 0), "change": mean(everywhere)},
            "one layer": {"rises": mean(alone > 0), "change": mean(alone)},
            "by layer": [{"rises": mean(layer > 0), "change": mean(layer)} for layer in alone.T],
        }
    return found


def baselines(records: list[Any]) -> dict[str, dict[str, float]]:
    return {name: {kind: mean([r[name][kind] for r in records]) for kind in KINDS} for name in records[0]}


def labels(record: Any) -> dict[str, Any]:
    found = {name: record[name] for name in ("training accuracy", "sentences", "epochs")}
    for name in ("true, another seed", "shuffled"):
        pairs, tokens = zip(*record[name], strict=True)
        found[name] = {"pairs": mean(pairs), "tokens": mean(tokens)}
    return found


def markdown(figures: Records) -> str:
    s = figures["settings"]
    parts = [
        "# Sanity",
        f"{s['data']} ({s['split']}), {s['model']} model, F the probability of the predicted class, {s['n_steps']} "
        "steps of Gauss-Legendre, layerwise path. Made by `python -m benchmarks.sanity`. Likeness: Spearman "
        "correlation of all attributions of a sentence (all layers, heads and pairs), of their magnitudes, the cosine, "
        "and Spearman correlation of the tokens' scores (received); means over sentences.",
        "## Completeness",
        completeness_words(figures["completeness"]),
        completeness_table(figures["completeness"]),
        "## Signs",
        signs_words(figures["signs"]),
        signs_table(figures["signs"]),
        "## Baselines",
        f"{figures['baseline sentences']} sentences. " + baseline_words(figures["baselines"]),
        likeness_table("baseline", figures["baselines"]),
        "## Padding and order of a batch",
        padding_words(figures["padding"]),
        "## Model randomisation, from the top down",
        f"{figures['model sentences']} sentences. " + model_words(figures["model"]),
        likeness_table("drawn anew down to", {row["part"]: row for row in figures["model"]}, strength=True),
        "## Label randomisation, and another seed",
        label_words(figures["labels"]),
        f"Environment: {line(figures['environment'])}.",
    ]
    return "\n\n".join(parts) + "\n"


def completeness_words(found: Records) -> str:
    gaps, relative = np.array(found["gap"]), np.array(found["relative"])
    worst = int(relative[:, -1].argmax())
    return (
        f"{found['sentences']} sentences, {len(gaps)} layers. The gap |sum of attributions - (F(A) - F(A0))| has a "
        f"median of {np.median(gaps[:, 0]):.1e} over layers and is at most {gaps[:, -1].max():.1e} in units of F; "
        f"relative to the norm of the layer's attributions the worst case is {relative[:, -1].max():.1e}, in "
        f"layer {worst}."
    )


def completeness_table(found: Records) -> str:
    head = ["layer", "mean sum of attributions", *(f"gap, {level}%" for level in found["levels"][:-1]), "gap, largest",
            "relative, 50%", "relative, largest"]  # fmt: skip
    rows = [
        [str(number), f"{total:.3f}", *(f"{g:.1e}" for g in gap), f"{relative[0]:.1e}", f"{relative[-1]:.1e}"]
        for number, (total, gap, relative) in enumerate(zip(found["sum"], found["gap"], found["relative"], strict=True))
    ]
    return table(head, rows)


def signs_words(found: Records) -> str:
    negative, chance = found["negative"], found["random"]

    def says(one: Records) -> str:
        return f"F rises in {one['rises']:.0%} of the cases, by {one['change']:+.4f} in the mean"

    return (
        f"{found['sentences']} sentences. Without the 10% most negative edges of all layers "
        f"{says(negative['all layers'])}; without a random 10% {says(chance['all layers'])}. In one layer alone, "
        f"without the most negative {says(negative['one layer'])}; without a random 10% {says(chance['one layer'])}."
    )


def signs_table(found: Records) -> str:
    both = found["negative"], found["random"]
    cases = {"all layers": [one["all layers"] for one in both]}
    for number, alone in enumerate(zip(*(one["by layer"] for one in both), strict=True)):
        cases[f"layer {number}"] = list(alone)
    rows = [
        [name, *(text for case in pair for text in (f"{case['rises']:.0%}", f"{case['change']:+.4f}"))]
        for name, pair in cases.items()
    ]
    return table(["edges of", "F rises, negative", "change", "F rises, random", "change"], rows)


def baseline_words(found: Records) -> str:
    nearest = max(found, key=lambda name: found[name]["shares"])
    return (
        f"Against attributions from no attention. The nearest is {nearest} ({found[nearest]['shares']:.2f}). A "
        "baseline is a question, not a setting: no attention asks what a layer's looking adds, uniform attention what "
        "its choice of where to look adds, a blank sentence what the words add to where it looks; answers to different "
        "questions need not agree."
    )


def padding_words(found: Records) -> str:
    return (
        "In float64, the largest relative difference of a layer's attributions between a sentence alone and in a "
        f"padded batch is {found['padding']:.1e}, between a batch and the same in reverse order {found['order']:.1e}; "
        f"the largest attribution of padding is {found['shares of padding']:.1e}."
    )


def model_words(rows: list[Records]) -> str:
    sizes = [row["strength"] for row in rows]
    falls = all(one >= other - 0.05 for one, other in itertools.pairwise(sizes))
    course = "falls from step to step" if falls else "does not fall at every step"
    return (
        f"The strength of the correlation of the attributions {course}: {sizes[1]:.2f} with the head drawn anew (whose "
        f"sign is drawn, too), {sizes[-1]:.2f} with everything; that of magnitudes ends at "
        f"{rows[-1]['magnitudes']:.2f} (Adebayo et al., NeurIPS 2018). Two caveats of later work: an attribution "
        "carries the attention itself as a factor, which parts not yet drawn anew leave as it was, so magnitudes stay "
        "alike for longer than gradients do (Kokhlikyan et al., arXiv 2106.07475, on text); and the test cannot rank "
        "methods, as noise passes it (Binder et al., CVPR 2023)."
    )


def label_words(found: Records) -> str:
    accuracy = found["training accuracy"]
    other, shuffled = found["true, another seed"], found["shuffled"]
    return (
        f"Two-layer models trained from scratch for {found['epochs']} epochs on {found['sentences']} sentences; labels "
        f"and accuracy on them: {', '.join(f'{name} {value:.1%}' for name, value in accuracy.items())}. F is the "
        "probability of class 1. Likeness to the first model's attributions, summed over layers and heads: another "
        f"seed {other['pairs']:.2f} (pairs), {other['tokens']:.2f} (tokens); shuffled labels {shuffled['pairs']:.2f} "
        f"and {shuffled['tokens']:.2f}."
    )


def likeness_table(name: str, rows: dict[str, Records], *, strength: bool = False) -> str:
    kinds = {"all attributions": "shares", "magnitudes": "magnitudes", "cosine": "cosine", "tokens": "tokens"}
    kinds |= {"all attributions, without sign": "strength"} if strength else {}
    lines = [[row, *(f"{found[kind]:.2f}" for kind in kinds.values())] for row, found in rows.items()]
    return table([name, *kinds], lines)
