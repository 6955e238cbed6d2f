"""Common parts of the pictures: maps with signed colours, symmetric about zero, figures, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from captum_attattr.colours import COLOURS

_DPI = 130
QUERY, KEY = "query: the token that looks", "key: the token looked at"


def signed_map(scores: np.ndarray, axes: Axes, inches: float) -> Colorbar:
    """Draw an image of the scores, ``inches`` wide, with a colour bar of the same height but at most 5 inches."""
    reach = float(np.abs(scores).max()) or 1.0
    image = axes.imshow(scores, cmap=COLOURS, vmin=-reach, vmax=reach, aspect="equal", interpolation="nearest")
    axes.set_anchor("NW")
    high = min(1.0, 5 * scores.shape[1] / (inches * scores.shape[0]))
    place = axes.inset_axes((1 + 0.12 / inches, 1 - high, 0.13 / inches, high))
    bar: Any = axes.figure.colorbar(image, cax=place)
    place.tick_params(labelsize=8)
    return bar  # type: ignore[no-any-return]


def name_rows_and_columns(axes: Axes, rows: Sequence[str], columns: Sequence[str], size: float) -> None:
    """Label the rows and columns of a map of token pairs, in letters of this size."""
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=size, parse_math=False)
    axes.set(xlabel=KEY, ylabel=QUERY)


def number_heads(axes: Axes, layers: Sequence[int], heads: int) -> None:
    """Number the columns of a map of heads by head and its rows by layer, as many as fit."""
    columns, rows = range(0, heads, 1 + heads // 20), range(0, len(layers), 1 + len(layers) // 20)
    axes.set_xticks(columns, [str(head) for head in columns])
    axes.set_yticks(rows, [str(layers[row]) for row in rows])
    axes.set(xlabel="head", ylabel="layer", ylim=(-0.5, len(layers) - 0.5))  # the last layer on top


def side_of(tokens: int) -> float:
    """Return the side of a map in inches such that all its rows or columns can be labelled."""
    return max(5.0, 0.26 * min(tokens, 20) + 0.14 * max(tokens - 20, 0))


def letters(side: float, tokens: int) -> float:
    """Return the size of letters with which all rows or columns can be labelled along ``side`` inches."""
    return min(9.0, 0.72 * 72 * side / tokens)


def strongest(strength: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the largest strengths, at most ``most``, in the order of the text."""
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def new_figure(size: tuple[float, float], use_pyplot: bool) -> tuple[Figure, Axes]:
    """Make a figure of this size in inches and its axes, with or without pyplot."""
    if use_pyplot:
        from matplotlib import pyplot  # imported only if needed, as it looks for a display

        figure = pyplot.figure(figsize=size, dpi=_DPI)
    else:
        figure = FigureCanvasAgg(Figure(figsize=size, dpi=_DPI)).figure
    return figure, figure.add_axes((0, 0, 1, 1))


def shown(figure: Figure, use_pyplot: bool) -> Figure:
    """Return the figure, after pyplot has shown it if that is wanted."""
    if use_pyplot:
        from matplotlib import pyplot

        pyplot.show()
    return figure


def widest_name(axes: Axes) -> float:
    """Return the width of the vertical axis's labels in inches, at least half an inch."""
    return max([0.5, *(float(label.get_window_extent().width) / dpi_of(axes) for label in axes.get_yticklabels())])


def lowest_name(axes: Axes) -> float:
    """Return the height of the horizontal axis's labels in inches."""
    return max([0.1, *(float(label.get_window_extent().height) / dpi_of(axes) for label in axes.get_xticklabels())])


def dpi_of(axes: Axes) -> float:
    """Return the pixels of an inch."""
    figure: Any = axes.get_figure(root=True)
    return float(figure.dpi)
