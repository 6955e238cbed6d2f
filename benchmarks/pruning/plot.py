"""Accuracy against the share of heads removed, as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.pruning.report import MEASURES, NORMALISED, Figures, random_runs

COLOURS = {"attattr": "#542788", "taylor": "#1b7837", "attention": "#b35806", "ablation": "#2166ac"}


def plot(f: Figures, file: Path) -> None:
    figure = FigureCanvasAgg(Figure(figsize=(11, 4.6), dpi=130, layout="constrained")).figure
    left, right = figure.subplots(1, 2, sharey=True)
    runs = list(zip(*random_runs(f), strict=True))
    levels = [10 * level for level in range(11)]
    for axes, ending, title in ((left, "", "scores as they are"), (right, NORMALISED, "layers normalised")):
        axes.fill_between(
            levels, [100 * min(x) for x in runs], [100 * max(x) for x in runs], color="#d9d9d9", label="random, range"
        )
        axes.plot(
            levels, [100 * statistics.mean(x) for x in runs], color="#737373", linestyle=":", label="random, mean"
        )
        for name in MEASURES:
            accuracy = [100 * x for x in f["curves"][name + ending]["accuracy"]]
            axes.plot(levels, accuracy, color=COLOURS[name], marker="o", markersize=3, label=name)
        if not ending:
            accuracy = [100 * x for x in f["curves"]["attattr, recomputed"]["accuracy"]]
            axes.plot(levels, accuracy, color=COLOURS["attattr"], linestyle="--", label="attattr, recomputed")
        axes.axhline(100 * f["accuracy"] - 1, color="black", linewidth=0.6)
        axes.text(100, 100 * f["accuracy"] - 0.8, "one point lost", fontsize=7, ha="right")
        axes.set(title=title, xlabel="% of the heads removed, least important first", xticks=levels)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="lower left", frameon=False)
    left.set_ylabel("% of the test sentences right")
    figure.savefig(file)
