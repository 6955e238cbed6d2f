"""The picture of an attribution tree: tokens in their columns, layers as heights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from captum_attattr.signed_map import AGAINST, FOR
from captum_attattr.tree_growth import Edge

CROSSING, _GREY = "#1b7837", "#8c8c8c"  # purple, green and orange: told apart by all common kinds of colour vision
_MOST_TOKENS, _LETTERS = 60, 9.0
# Inches: between words, the column of an upright word, a word's height, between layers, and the layers' names.
_GAP, _UPRIGHT, _HIGH, _STEP, _LEFT = 0.18, 0.26, 0.14, 0.62, 0.8
_WIDEST = 12.0
"""Inches: in a wider sentence the words stand upright."""


@dataclass(frozen=True)
class Plan:
    """What is drawn, in plain terms: a tree over a text."""

    tokens: Sequence[str]
    sentences: Sequence[int | None] | None
    layers: Sequence[int]
    top: int
    edges: Sequence[Edge]
    crossing: Sequence[bool]

    @property
    def heights(self) -> dict[int, int]:
        """Of each token in the tree: how many layers are below it."""
        places = {layer: place for place, layer in enumerate(self.layers)}
        return {self.top: len(self.layers)} | {edge.key: places[edge.layer] for edge in self.edges}

    @property
    def is_whole(self) -> bool:
        """Whether there is room for the whole text."""
        return len(self.tokens) <= _MOST_TOKENS

    @property
    def shown(self) -> list[int]:
        """The tokens that have a column: all, or those in the tree."""
        return list(range(len(self.tokens))) if self.is_whole else sorted(self.heights)

    @property
    def title(self) -> str:
        """What the picture says."""
        title = f"What flows to {self.tokens[self.top]}: wider edges have larger scores"
        title += ", green ones cross the sentences" * any(self.crossing)
        title += ", the dashed one is not for the output" * any(edge.share <= 0 for edge in self.edges)
        left_out = len(self.tokens) - len(self.shown)
        return title + f"\n{left_out} tokens that are not in the tree are left out" * bool(left_out)


@dataclass(frozen=True)
class Sheet:
    """Where things go, in inches, which are the units of the axes."""

    columns: dict[int, float]
    """Middle of each token's column."""
    widths: dict[int, float]
    upright: bool
    row: float
    """Of the text."""
    foot: float
    """Of the lowest layer."""
    step: float

    @classmethod
    def of(cls, lengths: dict[int, float], inside: set[int], has_row: bool) -> Sheet:
        """For words of these lengths, of which some are in the tree, with or without the text at the foot."""
        upright = sum(lengths.values()) + _GAP * len(lengths) > _WIDEST
        widths = {place: _UPRIGHT if upright else length + _GAP for place, length in lengths.items()}
        columns, right = {}, _LEFT
        for place, width in widths.items():
            columns[place], right = right + width / 2, right + width
        row = has_row * (max(lengths.values()) if upright else _HIGH)
        word = max(lengths[place] for place in inside) if upright else _HIGH
        return cls(columns, widths, upright, 0.12 + row / 2, 0.3 + row + word / 2, max(_STEP, min(word + 0.3, 0.85)))

    def y(self, height: float) -> float:
        """Of so many layers above the lowest one."""
        return self.foot + height * self.step

    def size(self, layers: int) -> tuple[float, float]:
        """Width, and height without the title."""
        right = max(column + self.widths[place] / 2 for place, column in self.columns.items())
        return right + 0.2, self.y(layers) + self.step / 2


def draw_tree(plan: Plan, axes: Axes, title: str | None, *, resize: bool) -> None:
    """Draw it; with ``resize`` the figure gets the size that suits the tree, else all shrinks with the axes."""
    words = _texts(plan, axes, plan.shown)
    above = axes.text(0, 0, plan.title if title is None else title, fontsize=_LETTERS + 1, va="top", parse_math=False)
    sheet = Sheet.of({place: _inches(word)[0] for place, word in words.items()}, set(plan.heights), plan.is_whole)
    width, height = sheet.size(len(plan.layers))
    wide, high = _inches(above)
    scale = _fit(axes, max(width, 1.05 * wide + 0.2), height + high + 0.1, resize)
    above.set(position=(0.1, height + high), fontsize=scale * (_LETTERS + 1))
    _draw_layers(plan, sheet, axes, scale)
    _draw_edges(plan, sheet, axes, scale)
    _draw_words(plan, sheet, axes, words, scale)


def _texts(plan: Plan, axes: Axes, places: Iterable[int]) -> dict[int, Text]:
    return {place: axes.text(0, 0, plan.tokens[place], fontsize=_LETTERS, parse_math=False) for place in places}


def _inches(text: Text) -> tuple[float, float]:
    box, figure = text.get_window_extent(), cast(Figure, text.get_figure(root=True))
    return float(box.width) / figure.dpi, float(box.height) / figure.dpi


def _fit(axes: Axes, width: float, height: float, resize: bool) -> float:
    """Make the axes' units inches, or as much of one as fits; returns how much that is."""
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


def _draw_layers(plan: Plan, sheet: Sheet, axes: Axes, scale: float) -> None:
    """A band for each layer, with its number, and a line between two sentences."""
    right, _ = sheet.size(len(plan.layers))
    for height, layer in enumerate(plan.layers):
        if height % 2 == 0:
            axes.fill_between(
                [0.1, right], sheet.y(height), sheet.y(height + 1), color="#f4f4f4", linewidth=0, zorder=0
            )
        middle = sheet.y(height + 0.5)
        axes.text(0.18, middle, f"layer {layer}", fontsize=scale * 8, color=_GREY, va="center", zorder=1)
    for place, before in zip(plan.shown[1:], plan.shown, strict=False):
        if plan.sentences is not None and plan.sentences[place] == 1 and plan.sentences[before] != 1:
            x = sheet.columns[place] - sheet.widths[place] / 2
            axes.plot([x, x], [0.05, sheet.y(len(plan.layers))], color=_GREY, linestyle=":", linewidth=scale, zorder=1)


def _draw_words(plan: Plan, sheet: Sheet, axes: Axes, words: dict[int, Text], scale: float) -> None:
    """The tree's words at their heights, and the text at the foot, where all of it is drawn."""
    inside = words if not plan.is_whole else _texts(plan, axes, plan.heights)
    for place, word in [*words.items(), *inside.items()]:
        word.set(position=(sheet.columns[place], sheet.row), ha="center", va="center", rotation=90 * sheet.upright)
        word.set(fontsize=scale * _LETTERS, color="black" if place in plan.heights else _GREY)
    for place, word in inside.items():
        word.set(y=sheet.y(plan.heights[place]), zorder=4)
        word.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "#c8c8c8", "linewidth": scale})


def _draw_edges(plan: Plan, sheet: Sheet, axes: Axes, scale: float) -> None:
    """From a token's own line, which goes down to the layers in which it looks at others, to what it looks at."""
    heights = plan.heights
    for query in {edge.query for edge in plan.edges}:
        lowest = min(heights[edge.key] for edge in plan.edges if edge.query == query) + 1
        x = sheet.columns[query]
        axes.plot([x, x], [sheet.y(heights[query]), sheet.y(lowest)], color="#c8c8c8", linewidth=1.2 * scale, zorder=2)
    for edge, crosses in zip(plan.edges, plan.crossing, strict=True):
        start, end = sheet.columns[edge.query], sheet.columns[edge.key]
        low, high = sheet.y(heights[edge.key]), sheet.y(heights[edge.key] + 1)
        bend = sheet.step * 0.55
        curve = Path([(start, high), (start, high - bend), (end, low + bend), (end, low)], [1, 4, 4, 4])
        colour = AGAINST if edge.share <= 0 else CROSSING if crosses else FOR
        patch = PathPatch(curve, facecolor="none", edgecolor=colour, capstyle="round", zorder=3)
        patch.set(linewidth=scale * edge_width(edge), linestyle="--" if edge.share <= 0 else "-")
        patch.set_gid(f"edge {edge.query} {edge.key}")
        axes.add_patch(patch)


def edge_width(edge: Edge) -> float:
    """Points, from 1 for a score of 0 to 4 for a score of 1 and more."""
    return 1 + 3 * min(max(edge.score, 0.0), 1.0)
