"""From the measurements of convergence to tables, curves and a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

from benchmarks.setup.machine import line
from benchmarks.setup.results import table

Figures = dict[str, dict[str, dict[str, float]]]
"""By F and path, and by what was run: errors, evaluations, seconds."""

# Colours told apart by all common kinds of colour vision (Okabe and Ito).
STYLES = {
    "tolerance": ("#000000", "o-"),
    "gausslegendre": ("#0072B2", "s-"),
    "riemann_middle": ("#009E73", "^--"),
    "riemann_trapezoid": ("#CC79A7", "v--"),
    "riemann_left": ("#E69F00", "<:"),
    "riemann_right": ("#56B4E9", ">:"),
    "by hand": ("#D55E00", "D-"),
}


def summarized(results: dict[str, Any]) -> Figures:
    """Over sentences and layers: median and worst error, mean evaluations; mean seconds over sentences."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, result in results.items():
        groups.setdefault(" ".join(name.split()[:2]), []).append(result)
    return {
        group: {
            what: {
                "median": float(np.median([one[what]["errors"] for one in some])),
                "worst": float(np.max([one[what]["errors"] for one in some])),
                "evaluations": float(np.mean([one[what]["evaluations"] for one in some])),
                "seconds": float(np.mean([one[what]["seconds"] for one in some])),
            }
            for what in some[0]
        }
        for group, some in groups.items()
    }


def plot(found: Figures, file: Path) -> None:
    figure = FigureCanvasAgg(Figure(figsize=(5 * len(found), 9), dpi=100, layout="constrained")).figure
    axes = figure.subplots(2, len(found), squeeze=False, sharey=True)
    for column, (group, entries) in zip(axes.T, found.items(), strict=True):
        output, path = group.split()
        for panel, x in zip(column, ("evaluations", "seconds"), strict=True):
            _draw(panel, entries, x)
        column[0].set(title=f"F = {output}, {path}", xlabel="evaluations a layer")
        column[1].set(xlabel="seconds for all layers of a sentence")
    for row in axes:
        row[0].set_ylabel("relative error: median, and worst (faint)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(file, metadata={"Software": None})


def _draw(axes: Axes, entries: dict[str, dict[str, float]], x: str) -> None:
    for rule, (colour, style) in STYLES.items():
        points = sorted(
            (e[x], e["median"], e["worst"]) for what, e in entries.items() if what.rpartition(" ")[0] == rule
        )
        if points:
            at, median, worst = zip(*points, strict=True)
            axes.plot(at, median, style, color=colour, label=rule.replace("riemann_", "Riemann, "), markersize=4)
            axes.plot(at, worst, style[0], color=colour, alpha=0.35, linestyle="none", markersize=4)
    axes.axhline(0.01, color="black", linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(FixedLocator([2, 4, 8, 16, 32, 64]) if x == "evaluations" else LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)


def markdown(figures: dict[str, Any]) -> str:
    settings, found = figures["settings"], figures["figures"]
    tables = "\n\n".join(f"## F = {group.replace(' ', ', ')}\n\n{rows(entries)}" for group, entries in found.items())
    return f"""# Convergence

{settings["limit"]} sentences of SST-2, one at a time, float32; relative L2 error of a layer's attributions, over
sentences and layers, against {settings["reference"]} Gauss-Legendre nodes in float64. Seconds: all layers of a
sentence, mean. Evaluations: nodes on the path, for each layer; by hand each is a pass of the whole model, in ours a
pass from the layer on. Made by `python -m benchmarks.convergence --data FOLDER`; {line(figures["environment"])}.

{words(found)}

![Error against evaluations and seconds](convergence.png)

{tables}
"""


def words(found: Figures) -> str:
    """What the figures say of each F, layer by layer."""
    said = []
    for group, entries in found.items():
        ours, hand = entries["tolerance 0.01"], entries.get("by hand 64")
        fewest = {
            rule: min((e["evaluations"] for what, e in entries.items()
                       if what.startswith(rule + " ") and e["worst"] < 0.01), default=None)
            for rule in STYLES if rule not in ("tolerance", "by hand")
        }  # fmt: skip
        needs = ", ".join(
            f"{rule.replace('riemann_', 'Riemann ')} {f'{n:.0f}' if n else 'more than 32'}"
            for rule, n in fewest.items()
        )
        sentence = (
            f"* **F = {group.replace(' ', ', ')}**: tolerance 0.01 takes {ours['evaluations']:.1f} evaluations and "
            f"{ours['seconds']:.2f} s, with an error of {ours['median']:.1e} (median) and {ours['worst']:.1e} (worst). "
            f"Steps (of 2, 4, 8, 16, 32) after which all errors are below 1e-2: {needs}."
        )
        if hand:
            short = entries["by hand 20"]
            sentence += (
                f" By hand, 64 left Riemann steps take {hand['seconds'] / ours['seconds']:.0f} times as long "
                f"({hand['seconds']:.1f} s), with {hand['median']:.1e} and {hand['worst']:.1e}; 20 steps "
                f"{short['seconds'] / ours['seconds']:.0f} times as long, with {short['median']:.1e} and "
                f"{short['worst']:.1e}."
            )
        said.append(sentence)
    return "\n".join(said)


def rows(entries: dict[str, dict[str, float]]) -> str:
    return table(
        ["", "evaluations", "median error", "worst error", "seconds"],
        [
            [what, f"{e['evaluations']:.1f}", f"{e['median']:.1e}", f"{e['worst']:.1e}", f"{e['seconds']:.3f}"]
            for what, e in entries.items()
        ],
    )
