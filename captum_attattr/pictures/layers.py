"""Small maps of layers side by side, each on a scale of its own."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from captum_attattr.colours import COLOURS
from captum_attattr.pictures.sheet import Sheet
from captum_attattr.pictures.signed_map import strongest
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.overview import number, signed

_SIDE, _ABOVE, _BETWEEN = 1.35, 0.42, 0.18
"""Inches: a map, the titles above it, and the space between maps."""


def draw_layers(
    sheet: Sheet, explanation: Explanation, place: tuple[float, float, float], most: int
) -> tuple[float, list[Axes]]:
    """Draw a map of token pairs for each layer, the last layer first.

    Args:
        sheet: Where to draw.
        explanation: Layerwise attributions.
        place: Inches: the left end, the top, and the width for all maps.
        most: Maximum number of rows and columns of a map.

    Returns:
        Where they end, in inches, and the axes.
    """
    left, top, width = place
    across = max(1, int((width + _BETWEEN) / (_SIDE + _BETWEEN)))
    maps = list[Axes]()
    sheet.write(
        "Layer by layer: F(A) - F(A0) of each, on its own scale; they do not add up", left, top - 0.28, fontsize=10
    )
    added = explanation.layer_scores() - explanation.delta
    order = sorted(range(len(explanation.layers)), key=lambda row: -explanation.layers[row])
    for number_of_map, row in enumerate(order):
        line, column = divmod(number_of_map, across)
        axes = sheet.add(f"layer {explanation.layers[row]}")
        darkest = _draw(axes, explanation.attributions[row].sum(0).numpy(), most)
        title = f"layer {explanation.layers[row]}: {signed(float(added[row]))}\ndarkest {number(darkest)}"
        axes.set_title(title, fontsize=7.5, loc="left")
        sheet.put(axes, left + column * (_SIDE + _BETWEEN), top + _ABOVE + line * (_SIDE + _ABOVE + 0.05), _SIDE, _SIDE)
        maps.append(axes)
    return top + (1 + (len(order) - 1) // across) * (_SIDE + _ABOVE + 0.05), maps


def _draw(axes: Axes, scores: np.ndarray, most: int) -> float:
    magnitude = np.abs(scores)
    kept = strongest(magnitude.sum(0) + magnitude.sum(1), most)
    part = scores[np.ix_(kept, kept)]
    reach = float(np.abs(part).max()) or 1.0
    axes.imshow(part, cmap=COLOURS, vmin=-reach, vmax=reach, aspect="equal", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    return reach
