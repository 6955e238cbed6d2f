"""What the pictures share: signed colours, maps on a true scale about zero, and the choice of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from captum_attattr.colours import COLOURS

MOST_TOKENS = 128
_DPI = 130
QUERY, KEY = "query: the token that looks", "key: the token looked at"


def signed_map(scores: np.ndarray, axes: Axes, inches: float) -> Colorbar:
    """An image of the scores, ``inches`` wide, and a colour bar as high as it, but 5 inches at most."""
    reach = float(np.abs(scores).max()) or 1.0
    image = axes.imshow(scores, cmap=COLOURS, vmin=-reach, vmax=reach, aspect="equal", interpolation="nearest")
    axes.set_anchor("NW")
    high = min(1.0, 5 * scores.shape[1] / (inches * scores.shape[0]))
    place = axes.inset_axes((1 + 0.12 / inches, 1 - high, 0.13 / inches, high))
    bar: Any = axes.figure.colorbar(image, cax=place)
    place.tick_params(labelsize=8)
    return bar  # type: ignore[no-any-return]


def name_rows_and_columns(axes: Axes, rows: Sequence[str], columns: Sequence[str], size: float) -> None:
    """The tokens beside a map of token pairs, in letters of that size."""
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=size, parse_math=False)
    axes.set(xlabel=KEY, ylabel=QUERY)


def side_of(tokens: int) -> float:
    """Inches for so many rows or columns, so that each can be named."""
    return max(5.0, 0.26 * min(tokens, 20) + 0.14 * max(tokens - 20, 0))


def letters(side: float, tokens: int) -> float:
    """Size of letters with which so many rows or columns can be named along ``side`` inches."""
    return min(9.0, 0.72 * 72 * side / tokens)


def strongest(strength: np.ndarray, most: int) -> np.ndarray:
    """The places of the largest strengths, ``most`` at most, in the order of the text."""
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def new_figure(size: tuple[float, float], use_pyplot: bool) -> tuple[Figure, Axes]:
    """A figure of that size in inches and its axes, by pyplot or without it."""
    if use_pyplot:
        from matplotlib import pyplot  # it looks for a display: only where it is asked for

        figure = pyplot.figure(figsize=size, dpi=_DPI)
    else:
        figure = FigureCanvasAgg(Figure(figsize=size, dpi=_DPI)).figure
    return figure, figure.add_axes((0, 0, 1, 1))


def shown(figure: Figure, use_pyplot: bool) -> Figure:
    """The figure, shown if it is pyplot's."""
    if use_pyplot:
        from matplotlib import pyplot

        pyplot.show()
    return figure


def widest_name(axes: Axes, dpi: float) -> float:
    """Inches that the labels of the vertical axis need, half an inch at least."""
    labels = axes.get_yticklabels()
    return max([0.5, *(float(label.get_window_extent().width) / dpi for label in labels)])
