"""The picture of an attribution tree: tokens in their columns, layers as heights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as CurvePath
from matplotlib.text import Text

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.layout import GREY, Plan, Sheet, numbers_of, starts, widths

_LINE, _BAND = "#c8c8c8", "#f4f4f4"
_LETTERS, _SMALL = 9.0, 7.5
_DASHES = 6.0, 3.0
"""Points on and off, for edges of all widths."""


def draw_tree(plan: Plan, axes: Axes, title: str | None, *, resize: bool) -> None:
    """Draw the tree; with ``resize`` the figure gets the size of the tree, otherwise the tree is scaled to the axes."""
    words = _texts(plan, axes, plan.shown)
    written = zip(plan.edges, numbers_of(plan.edges), strict=True)
    numbers = {edge.key: axes.text(0, 0, _with_minus(number), fontsize=_SMALL) for edge, number in written}
    sizes = [{place: _inches(text)[0] for place, text in texts.items()} for texts in (words, numbers)]
    sheet = Sheet.from_sizes(sizes[0], sizes[1], set(plan.heights), plan.is_whole)
    above = [
        axes.text(0, 0, plan.title if title is None else title, fontsize=_LETTERS + 1, parse_math=False),
        axes.text(0, 0, plan.small_print, fontsize=_SMALL, color=GREY, parse_math=False),
    ]
    legend = [
        (axes.text(0, 0, name, fontsize=_SMALL, parse_math=False), colour, dashed)
        for name, colour, dashed in plan.legend
    ]
    width, height = sheet.size(len(plan.bands))
    scale = _fit(axes, *_extent(width, height, above, [text for text, *_ in legend]), resize)
    _draw_layers(plan, sheet, axes, scale)
    _draw_edges(plan, sheet, axes, scale)
    _draw_words(plan, sheet, axes, words, numbers, scale)
    _draw_above(axes, height, above, legend, scale)


def _with_minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def _texts(plan: Plan, axes: Axes, places: Iterable[int]) -> dict[int, Text]:
    return {place: axes.text(0, 0, plan.tokens[place], fontsize=_LETTERS, parse_math=False) for place in places}


def _inches(text: Text) -> tuple[float, float]:
    box, figure = text.get_window_extent(), cast(Figure, text.get_figure(root=True))
    return float(box.width) / figure.dpi, float(box.height) / figure.dpi


def _extent(width: float, height: float, above: Sequence[Text], legend: Sequence[Text]) -> tuple[float, float]:
    """Return the width and height of the tree together with the texts above it."""
    row = 0.1 + sum(_inches(text)[0] + 0.6 for text in legend)
    wide = max(width, row, *(1.05 * _inches(text)[0] + 0.2 for text in above))
    return wide, height + 0.2 * bool(legend) + sum(_inches(text)[1] + 0.08 for text in above) + 0.05


def _fit(axes: Axes, width: float, height: float, resize: bool) -> float:
    """Set the units of the axes to inches, or to the fraction of an inch that fits, and return this scale."""
    figure = cast(Figure, axes.get_figure(root=True))
    scale = 1.0
    if resize:
        figure.set_size_inches(width, height)
        axes.set_position((0, 0, 1, 1))
    else:
        box = axes.get_window_extent()
        scale = min(1.0, box.width / figure.dpi / width, box.height / figure.dpi / height)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return float(scale)


def _draw_above(
    axes: Axes, height: float, above: Sequence[Text], legend: Sequence[tuple[Text, str, bool]], scale: float
) -> None:
    """Draw, from the tree upwards, the legend, the small print and the title."""
    x = 0.1
    for text, colour, dashed in legend:
        style = (0, (2 * _DASHES[0] / 3, 2 * _DASHES[1] / 3)) if dashed else "-"
        axes.plot([x, x + 0.3], [height + 0.1] * 2, color=colour, linewidth=3 * scale, linestyle=style)
        text.set(position=(x + 0.37, height + 0.1), va="center_baseline")
        x += _inches(text)[0] + 0.6
        text.set_fontsize(scale * _SMALL)
    y = height + 0.2 * bool(legend)
    for text in reversed(above):
        high = _inches(text)[1]
        text.set(position=(0.1, y + 0.04), va="bottom", linespacing=1.3)
        text.set_fontsize(scale * float(text.get_fontsize()))
        y += high + 0.08


def _draw_layers(plan: Plan, sheet: Sheet, axes: Axes, scale: float) -> None:
    """Draw a band for each layer, with its number, and a line between two sentences."""
    right, _ = sheet.size(len(plan.bands))
    for height, layers in enumerate(plan.bands):
        if height % 2 == 0:
            axes.fill_between([0.1, right], sheet.y(height), sheet.y(height + 1), color=_BAND, linewidth=0, zorder=0)
        one = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}\N{EN DASH}{layers[-1]}"
        axes.text(0.18, sheet.y(height + 0.5), one, fontsize=scale * 8, color=GREY, va="center", zorder=1)
    for place, before in zip(plan.shown[1:], plan.shown, strict=False):
        if plan.sentences is not None and plan.sentences[place] == 1 and plan.sentences[before] != 1:
            x, _ = sheet.ends[place]
            axes.plot([x, x], [0.05, sheet.y(len(plan.bands))], color=GREY, linestyle=":", linewidth=scale, zorder=1)


def _draw_words(
    plan: Plan, sheet: Sheet, axes: Axes, words: dict[int, Text], numbers: dict[int, Text], scale: float
) -> None:
    """Draw the tree's words at their heights with their numbers, and the text below if all of it is drawn."""
    inside = words if not plan.is_whole else _texts(plan, axes, plan.heights)
    for place, word in [*words.items(), *inside.items()]:
        word.set(position=(sheet.columns[place], sheet.row), ha="center", va="center", rotation=90 * sheet.upright)
        word.set(fontsize=scale * _LETTERS, color="black" if place in plan.heights else GREY)
    for place, word in inside.items():
        word.set(y=sheet.y(plan.heights[place]), zorder=5)
        word.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": _LINE, "linewidth": scale})
    for edge in plan.edges:
        number = numbers[edge.key]
        number.set(position=sheet.number(edge.key, plan.heights[edge.key]), ha="center", zorder=4)
        number.set(rotation=90 * sheet.upright, va="top" if sheet.upright else "center", fontsize=scale * _SMALL)
        number.set(color=FOR if edge.attribution > 0 else AGAINST)
        number.set_bbox({"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})


def _draw_edges(plan: Plan, sheet: Sheet, axes: Axes, scale: float) -> None:
    """Draw each token's line, down to the layers of its looks, and from there an edge to each of its keys."""
    heights = plan.heights
    for query in {edge.query for edge in plan.edges}:
        lowest = min(heights[edge.key] for edge in plan.edges if edge.query == query) + 1
        x = sheet.columns[query]
        axes.plot([x, x], [sheet.y(heights[query]), sheet.y(lowest)], color=_LINE, linewidth=1.2 * scale, zorder=2)
    looks = zip(plan.edges, plan.crossing, widths(plan.edges), starts(plan, sheet.columns), strict=True)
    for edge, crosses, points, aside in looks:
        start, end = sheet.columns[edge.query] + aside, sheet.columns[edge.key]
        low, high = sheet.y(heights[edge.key]), sheet.y(heights[edge.key] + 1)
        bend, up = sheet.step * 0.55, 4 / 3 * (aside if end > start else -aside)  # parallel edges must not overlap
        curve = CurvePath([(start, high), (start, high - bend + up), (end, low + bend + up), (end, low)], [1, 4, 4, 4])
        style = (0, tuple(dash / points for dash in _DASHES)) if crosses else "-"  # in units of the line width
        patch = PathPatch(curve, facecolor="none", edgecolor=FOR if edge.attribution > 0 else AGAINST, capstyle="butt")
        patch.set(linewidth=scale * points, linestyle=style, zorder=3)
        patch.set_gid(f"edge {edge.query} {edge.key}")
        axes.add_patch(patch)
