"""The figures of pruning as tables and sentences.

Every sentence takes its figures, and what it says of them, from the results: none can contradict them.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.setup.machine import line
from benchmarks.setup.results import table

# From the cheapest to the dearest, with what they cost for each sentence.
MEASURES = ("attention", "taylor", "attattr", "ablation")
NORMALISED = ", layers normalised"
Figures = dict[str, Any]


def markdown(figures: Figures) -> str:
    return "\n\n".join([*_head(figures), _table(figures), *_reading(figures), *_details(figures)]) + "\n"


def _head(f: Figures) -> list[str]:
    s = f["settings"]
    return [
        "# Removing heads",
        f"SST-2, {s['model']}: accuracy on {s['test_sentences']} sentences of the official validation set after "
        "removing heads, the least important first, over all layers. Importance on "
        f"{s['importance_examples']} whole sentences "
        'that the model was not trained on, F the probability of the gold label. "Layers normalised": each layer\'s '
        "scores divided by their L2 norm, as Michel et al. do. Made by `python -m benchmarks.pruning --data FOLDER`.",
        "![Accuracy against the share of heads removed](pruning.png)",
    ]


# The table of orders


def _mean(accuracy: list[float]) -> float:
    return statistics.mean(accuracy[1:10])


def random_runs(f: Figures) -> list[list[float]]:
    return [one["accuracy"] for name, one in f["curves"].items() if name.startswith("random ")]


def _orders(f: Figures) -> list[str]:
    return [name for name in f["curves"] if not name.startswith("random ")]


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _row(name: str, accuracy: list[float], against: str, free: str) -> list[str]:
    return [name, *map(_points, accuracy), _points(_mean(accuracy)), against, free]


def _table(f: Figures) -> str:
    head = ["order", *(f"{10 * level}%" for level in range(11)), "mean 10-90%", "minus random", "heads free"]
    rows = []
    for name in _orders(f):
        one, gap = f["curves"][name], f["compared"][name]["random"]
        rows.append(_row(name, one["accuracy"], _gap(gap), str(one["free"])))
    runs = random_runs(f)
    mean = [statistics.mean(level) for level in zip(*runs, strict=True)]
    free = [one["free"] for name, one in f["curves"].items() if name.startswith("random ")]
    rows.append(_row(f"random, mean of {len(runs)}", mean, "", f"{min(free)} to {max(free)}"))
    if len(runs) > 1:
        spread = [statistics.stdev(level) for level in zip(*runs, strict=True)]
        rows.append(["its standard deviation", *map(_points, spread), "", "", ""])
    note = (
        'Accuracy in percent. "Minus random": difference of the means over 10% to 90%, on the same sentences, with its '
        'standard error over sentences, in points. "Heads free": how many heads, of '
        f"{f['curves'][_orders(f)[0]]['heads_removed'][-1]}, go before accuracy is more than one point below that of "
        "the whole model: checked every tenth of the heads, and head by head within the tenth in which it falls."
    )
    return f"{table(head, rows)}\n\n{note}"


def _gap(gap: dict[str, float]) -> str:
    return f"{100 * gap['mean']:+.1f} ± {100 * gap['error']:.1f}"


# The reading


def _reading(f: Figures) -> list[str]:
    return ["## What it says", " ".join(_on_orders(f)), " ".join(_on_variants(f)), _default(f)]


def _clear(gap: dict[str, float]) -> bool:
    return abs(gap["mean"]) > 2 * gap["error"]


def _verdict(gap: dict[str, float]) -> str:
    if not _clear(gap):
        return "within two standard errors, so this test does not tell them apart"
    return "more than two standard errors"


def _plain(f: Figures) -> list[str]:
    """Orders taken once, with the gold label."""
    return [name for name in _orders(f) if "recomputed" not in name and "predicted" not in name]


def _on_orders(f: Figures) -> list[str]:
    curves, compared = f["curves"], f["compared"]
    ranked = sorted(_plain(f), key=lambda name: -_mean(curves[name]["accuracy"]))
    best, second, worst = ranked[0], ranked[1], ranked[-1]
    better = [name for name in ranked if compared[name]["random"]["mean"] > 0 and _clear(compared[name]["random"])]
    worse = [name for name in ranked if compared[name]["random"]["mean"] < 0 and _clear(compared[name]["random"])]
    free = max(ranked, key=lambda name: curves[name]["free"])
    sentences = [
        f"The whole model is right on {_points(f['accuracy'])}% of the sentences; always giving the more frequent "
        f"label is right on {_points(f['majority'])}%.",
        f"Over the levels from 10% to 90%, the order by **{best}** keeps most accuracy "
        f"({_points(_mean(curves[best]['accuracy']))}% on average), that by {worst} least "
        f"({_points(_mean(curves[worst]['accuracy']))}%).",
        f"The best is {_gap(compared[best][second])} points ahead of the next, {second}: "
        f"{_verdict(compared[best][second])}.",
        f"Better than random by more than two standard errors: {_listed(better)}. Worse: {_listed(worse)}.",
        f"Most heads can go before a point is lost in the order by {free}: {curves[free]['free']}; in random order "
        f"{statistics.mean(one['free'] for name, one in curves.items() if name.startswith('random ')):.0f} on average.",
    ]
    for other in ("taylor", "taylor" + NORMALISED, "ablation"):
        gap = compared["attattr"][other]
        sentences.append(f"Attattr against {other}: {_gap(gap)} points, {_verdict(gap)}.")
    return sentences


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


def _on_variants(f: Figures) -> list[str]:
    compared = f["compared"]
    found = []
    for name in MEASURES:
        gap = compared[name + NORMALISED][name]
        effect = "makes no clear difference" if not _clear(gap) else "helps" if gap["mean"] > 0 else "harms"
        found.append(f"{name} {_gap(gap)} ({effect})")
    top = f["top 3 of each layer"]
    best = max(top, key=lambda name: top[name])
    recomputed = compared["attattr, recomputed"]["attattr"]
    predicted = ", ".join(
        f"{name} {_gap(compared[f'{name}, predicted label'][name])}" for name in ("attattr", "taylor", "ablation")
    )
    return [
        f"Normalising each layer's scores changes the mean by, in points: {'; '.join(found)}.",
        f"Attattr taken anew after every tenth of the heads, against once: {_gap(recomputed)} points, "
        f"{_verdict(recomputed)}.",
        f"The predicted in place of the gold label: {predicted} points.",
        "With only the 3 most important heads of each layer the model is right on "
        f"{', '.join(f'{_points(top[name])}% ({name})' for name in top)}; the best of these is {best}.",
    ]


def _default(f: Figures) -> str:
    """The cheapest order that is not clearly worse than the best."""
    best = max(_plain(f), key=lambda name: _mean(f["curves"][name]["accuracy"]))
    candidates = [name for name in _plain(f) if name == best or not _clear(f["compared"][best][name])]
    cheapest = min(candidates, key=lambda name: (MEASURES.index(name.split(",")[0]), NORMALISED in name))
    return (
        f"**Default for pruning: {cheapest}.** The rule: of the orders that are not more than two standard errors "
        f"worse than the best ({_listed(candidates)}), the cheapest; attention costs a forward pass, taylor a forward "
        "and a backward pass, attattr some dozens of them, ablation one forward pass for each head. This is one model "
        "and one data set, and the best of eight orders was picked after its result was known."
    )


# The rest


def _matrix(title: str, rows: dict[str, dict[str, float | None]]) -> str:
    lines = [[name, *("" if x is None else f"{x:.2f}" for x in row.values())] for name, row in rows.items()]
    return table([title, *next(iter(rows.values()))], lines)


def _details(f: Figures) -> list[str]:
    agreement, field, steps, s = f["agreement"], f["receptive field"], f["steps"], f["settings"]
    same = ", ".join(f"{name} {value:.3f}" for name, value in agreement["gold and predicted"].items())
    layers = {
        name: {str(layer): value for layer, value in enumerate(field[name])}
        for name in ("mean distance", "median distance", "next to each other", "a word and itself")
    }
    stability = {
        f"{name}, {kind}": {n: row[kind] for n, row in rows.items()}
        for name, rows in f["stability"].items()
        for kind in ("with all", "between two")
    }
    return [
        "## Agreement between the measures",
        f"Spearman's correlation over all heads, {s['importance_examples']} sentences.",
        _matrix("", agreement["between measures"]),
        f"Between gold and predicted label: {same}.",
        "## How many sentences a ranking needs",
        f'Spearman\'s correlation of a ranking by n sentences "with all" {s["stability_examples"]}, of which the n '
        'are a part, and "between two" sets of n that share none; means over all ways to cut them into runs of n.',
        _matrix("n", stability),
        "## How far the strongest pairs reach",
        f"Distance in tokens between query and key of the {field['strongest pairs']} pairs of words with the largest "
        f"attribution, heads summed, in each of {field['sentences']} sentences, by layer; all pairs of words are "
        f"{field['mean distance of all pairs']:.2f} apart on average. The last two rows are shares of the pairs.",
        _matrix("layer", layers),
        "## How it was made",
        f"Attattr with {steps['few']} Gauss-Legendre steps: against {steps['many']}, on ten sentences, the ranking of "
        f"the heads correlates by {steps['rank correlation']:.4f}, and scores differ by "
        f"{100 * steps['largest difference']:.2f}% of the largest at most. Removed heads were cut out, which gives the "
        "output of masking them; what that saves is measured by `python -m benchmarks.pruned_speed`.",
        f"Environment: {line(f['environment'])}.",
    ]
