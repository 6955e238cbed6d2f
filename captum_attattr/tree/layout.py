"""Where everything goes in the picture of an attribution tree, and how wide and in which colour it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.growth import Edge

GREY = "#6e6e6e"
_MOST_TOKENS = 60
# Inches: between words, the column of an upright word, a word's height, between layers, and the layers' names.
_GAP, _UPRIGHT, _HIGH, _STEP, _LEFT = 0.18, 0.26, 0.14, 0.66, 0.9
_NUMBER = 0.15
"""Inches: from the edge of a word to the middle of its number, and more room that the number takes."""
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
    what: str
    """What the shares are shares of."""
    notes: Sequence[str]
    """What has to be known of the widths."""

    @property
    def bands(self) -> list[list[int]]:
        """Layers from the lowest on, each by itself; neighbours without an edge are taken together."""
        used = {edge.layer for edge in self.edges}
        runs = [list(run) for _, run in groupby(self.layers, used.__contains__)]
        return [band for run in runs for band in ([[layer] for layer in run] if run[0] in used else [run])]

    @property
    def heights(self) -> dict[int, int]:
        """Of each token in the tree: how many bands are below it."""
        places = {layer: place for place, band in enumerate(self.bands) for layer in band}
        return {self.top: len(self.bands)} | {edge.key: places[edge.layer] for edge in self.edges}

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
        return f"What flows to {self.tokens[self.top]}: shares in the {self.what}"

    @property
    def small_print(self) -> str:
        """What has to be known to read it."""
        left_out = len(self.tokens) - len(self.shown)
        return "\n".join([*self.notes, *[f"{left_out} tokens that are not in the tree are left out"] * bool(left_out)])

    @property
    def legend(self) -> list[tuple[str, str, bool]]:
        """Of each kind of edge that is there: what it means, its colour, and whether it is dashed."""
        kinds = [
            (f"raises the {self.what}", FOR, False, any(edge.attribution > 0 for edge in self.edges)),
            (f"lowers the {self.what}", AGAINST, False, any(edge.attribution <= 0 for edge in self.edges)),
            ("crosses the sentences", GREY, True, any(self.crossing)),
        ]
        return [(name, colour, dashed) for name, colour, dashed, there in kinds if there]


@dataclass(frozen=True)
class Sheet:
    """Where things go, in inches, which are the units of the axes."""

    columns: dict[int, float]
    """Middle of each token's word."""
    ends: dict[int, tuple[float, float]]
    """Left and right of each token's column."""
    upright: bool
    row: float
    """Of the text."""
    foot: float
    """Of the lowest layer."""
    step: float
    words: dict[int, float]
    """Length of each token's word."""

    @classmethod
    def from_sizes(cls, words: dict[int, float], numbers: dict[int, float], inside: set[int], has_row: bool) -> Sheet:
        """For words and numbers of these lengths, of which some are in the tree, with or without the text below it."""
        upright = sum(words.values()) + _GAP * len(words) > _WIDEST
        columns, ends, right = {}, {}, _LEFT
        for place, length in words.items():
            width = _UPRIGHT if upright else max(length, numbers.get(place, 0.0)) + _GAP
            left, columns[place] = right, right + width / 2
            right += width + _NUMBER * (upright and place in numbers)
            ends[place] = left, right
        row = has_row * (max(words.values()) if upright else _HIGH)
        word = max(words[place] for place in inside) if upright else _HIGH
        number = 0.0 if upright else _NUMBER
        foot, step = 0.34 + row + word / 2 + number, max(_STEP, min(word + 0.3, 0.95))
        return cls(columns, ends, upright, 0.12 + row / 2, foot, step, words)

    def y(self, height: float) -> float:
        """Of so many bands above the lowest one."""
        return self.foot + height * self.step

    def number(self, place: int, height: float) -> tuple[float, float]:
        """Of a token's number: under its word, or beside it if that is upright."""
        if self.upright:
            return self.columns[place] + _UPRIGHT / 2 + 0.04, self.y(height) - 0.02
        return self.columns[place], self.y(height) - _HIGH / 2 - _NUMBER

    def size(self, bands: int) -> tuple[float, float]:
        """Width, and height without what is written above."""
        top = max(self.words.values()) / 2 if self.upright else _HIGH
        return max(right for _, right in self.ends.values()) + 0.2, self.y(bands) + top + 0.12


def widths(edges: Sequence[Edge]) -> list[float]:
    """Points, in proportion to the scores' magnitudes: 12 for the largest at most, and never less than a hair, 0.3.

    Those that leave a token in one layer are 30 wide together at most.
    """
    bundles: dict[tuple[int, int], float] = {}
    for edge in edges:
        bundles[edge.layer, edge.query] = bundles.get((edge.layer, edge.query), 0.0) + abs(edge.score)
    most = max((abs(edge.score) for edge in edges), default=0.0) or 1.0
    unit = min(12 / most, 30 / max(most, *bundles.values(), 0.0))
    return [max(unit * abs(edge.score), 0.3) for edge in edges]


def numbers_of(edges: Sequence[Edge]) -> list[str]:
    """The shares, all with as many decimals as the smallest one needs to be told from zero."""
    least = min((abs(edge.attribution) for edge in edges if edge.attribution), default=1.0)
    decimals = max(2, 1 + math.ceil(-math.log10(least)))
    form = f"+.{decimals}f" if decimals < 8 else "+.1e"
    return [format(edge.attribution, form) for edge in edges]


def starts(plan: Plan, columns: dict[int, float]) -> list[float]:
    """How far right of its token's middle each edge begins: side by side in one layer, in the order of their ends."""
    starts = {}
    inches = dict(zip(plan.edges, (points / 72 for points in widths(plan.edges)), strict=True))
    leaving = sorted(plan.edges, key=lambda edge: (edge.layer, edge.query, columns[edge.key]))
    for _, together in groupby(leaving, lambda edge: (edge.layer, edge.query)):
        bundle = list(together)
        left = -sum(inches[edge] for edge in bundle) / 2
        for edge in bundle:
            starts[edge] = left + inches[edge] / 2
            left += inches[edge]
    return [starts[edge] for edge in plan.edges]
