"""The curves as a picture: tokens removed, edges cut in all layers, edges cut in one layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Records = list[dict[str, Any]]

# Colours told apart by all common kinds of colour vision (Okabe and Ito); a line's dashes are its kind.
_TOKEN_STYLES = {
    "ours, received": ("#0072B2", "-"),
    "ours, first": ("#56B4E9", "-"),
    "ours joint, received": ("#CC79A7", "-"),
    "integrated gradients, [PAD]": ("#D55E00", "--"),
    "integrated gradients, zero": ("#E69F00", "--"),
    "input x gradient": ("#999999", "--"),
    "gradient x attention (Chefer)": ("#009E73", "-."),
    "attention, last layer": ("#666666", "-."),
    "attention rollout": ("#BBBBBB", "-."),
    "leave-one-out": ("#000000", ":"),
    "random": ("#000000", "-"),
}
_PAIR_STYLES = {
    "ours layerwise": ("#0072B2", "-"),
    "ours joint": ("#CC79A7", "-"),
    "ours layerwise, uniform baseline": ("#56B4E9", "--"),
    "attention x gradient": ("#009E73", "-."),
    "raw attention": ("#666666", "-."),
    "integrated gradients of the key": ("#D55E00", "--"),
    "integrated gradients, outer product": ("#E69F00", "--"),
    "random": ("#000000", "-"),
}


def plot(records: Records, with_pairs: Records, settings: dict[str, Any], file: Path) -> None:
    panels = 1 + 2 * bool(with_pairs)
    figure = FigureCanvasAgg(Figure(figsize=(5.6 * panels, 6.4), dpi=110, layout="constrained")).figure
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_tokens(records, settings, axes[0])
    if with_pairs:
        _draw_edges(with_pairs, settings["edge_fractions"], axes[1])
        _draw_layers(with_pairs, settings["layer_fractions"], axes[2])
    with mpl.rc_context({"svg.hashsalt": "faithfulness"}):
        figure.savefig(file, metadata={"Software": None})


def _draw_tokens(records: Records, settings: dict[str, Any], axes: Axes) -> None:
    for name, (colour, line) in _TOKEN_STYLES.items():
        ys = _mean([entry["mask"]["curve"] for entry in _entries(records, "tokens", name)])
        axes.plot(settings["token_fractions"], ys, line, color=colour, label=name, linewidth=1.6)
    axes.set(
        title=f"Tokens hidden, the most important first\n{len(records)} sentences", xlabel="share of tokens removed"
    )
    _finish(axes)


def _draw_edges(records: Records, fractions: Sequence[float], axes: Axes) -> None:
    for name, (colour, line) in _PAIR_STYLES.items():
        entries = _entries(records, "pairs", name)
        axes.plot(fractions, _mean([e["most"] for e in entries]), line, color=colour, label=name, linewidth=1.6)
        axes.plot(fractions, _mean([e["least"] for e in entries]), line, color=colour, linewidth=0.9, alpha=0.8)
    axes.set_xscale("symlog", linthresh=0.001, linscale=0.5)
    axes.set_xticks([0, 0.001, 0.01, 0.1, 1], ["0", "0.1%", "1%", "10%", "100%"])
    axes.set(
        title=f"Edges cut in all layers; thin: the least important first\n{len(records)} sentences",
        xlabel="share of edges cut",
    )
    _finish(axes)


def _draw_layers(records: Records, fractions: Sequence[float], axes: Axes) -> None:
    """Gap between the least and the most important first, layer by layer."""
    xs = np.array(fractions)
    for name, (colour, line) in _PAIR_STYLES.items():
        entries = [record["pairs"]["random 0" if name == "random" else name] for record in records]
        most, least = (np.array([e[f"layers {order}"] for e in entries]).mean(0) for order in ("most", "least"))
        gaps = np.trapezoid(least - most, xs, axis=1) / (xs[-1] - xs[0])
        axes.plot(range(len(gaps)), gaps, line, marker="o", color=colour, label=name, linewidth=1.6)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(title="Edges cut in one layer at a time", xlabel="layer", ylabel="gap, least minus most important first")
    axes.set_xticks(range(len(gaps)))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Axes) -> None:
    axes.set_ylabel("mean probability of the predicted class")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _entries(records: Records, part: str, name: str) -> list[dict[str, Any]]:
    found = [entry for record in records for n, entry in record[part].items() if n == name]
    return found or [entry for record in records for n, entry in record[part].items() if n.startswith(f"{name} ")]


def _mean(curves: Sequence[Sequence[float]]) -> np.ndarray:
    mean: np.ndarray = np.array(curves).mean(0)
    return mean
