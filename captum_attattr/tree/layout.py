"""The layout of the picture of an attribution tree: positions, widths, colours and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.growth import Edge

GREY = "#6e6e6e"
_MOST_TOKENS = 60
# Inches: gap between words, width of an upright word, height of a word, height of a layer, width of layer names.
_GAP, _UPRIGHT, _HIGH, _STEP, _LEFT = 0.18, 0.26, 0.14, 0.66, 0.9
_NUMBER = 0.15
"""Inches: from the edge of a word to the middle of its number, and the width added for an upright number."""
_WIDEST = 12.0
"""Inches: in wider sentences words are upright."""


@dataclass(frozen=True)
class Plan:
    """The content of the picture: a tree over a text."""

    tokens: Sequence[str]
    sentences: Sequence[int | None] | None
    layers: Sequence[int]
    top: int
    edges: Sequence[Edge]
    crossing: Sequence[bool]
    what: str
    """The name of the explained output."""
    notes: Sequence[str]
    """Notes on the meaning of the widths."""

    @property
    def bands(self) -> list[list[int]]:
        """Layers from the lowest on, one a band, but neighbours without an edge in one band."""
        used = {edge.layer for edge in self.edges}
        runs = [list(run) for _, run in groupby(self.layers, used.__contains__)]
        return [band for run in runs for band in ([[layer] for layer in run] if run[0] in used else [run])]

    @property
    def heights(self) -> dict[int, int]:
        """For each token in the tree, the number of bands below it."""
        places = {layer: place for place, band in enumerate(self.bands) for layer in band}
        return {self.top: len(self.bands)} | {edge.key: places[edge.layer] for edge in self.edges}

    @property
    def is_whole(self) -> bool:
        """Whether the whole text is drawn."""
        return len(self.tokens) <= _MOST_TOKENS

    @property
    def shown(self) -> list[int]:
        """The tokens with a column: all of them, or those in the tree."""
        return list(range(len(self.tokens))) if self.is_whole else sorted(self.heights)

    @property
    def title(self) -> str:
        """The title."""
        return f"What flows to {self.tokens[self.top]}: attributions for the {self.what}"

    @property
    def small_print(self) -> str:
        """The notes below the title."""
        left_out = len(self.tokens) - len(self.shown)
        return "\n".join([*self.notes, *[f"{left_out} tokens that are not in the tree are left out"] * bool(left_out)])

    @property
    def legend(self) -> list[tuple[str, str, bool]]:
        """The meaning and colour of each kind of edge in the tree, and whether it is dashed."""
        kinds = [
            (f"raises the {self.what}", FOR, False, any(edge.attribution > 0 for edge in self.edges)),
            (f"lowers the {self.what}", AGAINST, False, any(edge.attribution <= 0 for edge in self.edges)),
            ("crosses the sentences", GREY, True, any(self.crossing)),
        ]
        return [(name, colour, dashed) for name, colour, dashed, there in kinds if there]


@dataclass(frozen=True)
class Sheet:
    """Positions in inches, which are the units of the axes."""

    columns: dict[int, float]
    """Middle of each token's word."""
    ends: dict[int, tuple[float, float]]
    """Left and right end of each token's column."""
    upright: bool
    row: float
    """Height of the text."""
    foot: float
    """Height of the lowest layer."""
    step: float
    """Distance between layers."""
    words: dict[int, float]
    """Length of each token's word."""

    @classmethod
    def from_sizes(cls, words: dict[int, float], numbers: dict[int, float], inside: set[int], has_row: bool) -> Sheet:
        """Make the layout for words and numbers of these lengths.

        Args:
            words, numbers: Lengths of the tokens' words and numbers.
            inside: The tokens in the tree.
            has_row: Whether the text is drawn below the tree.
        """
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
        """Return the height of a band, given the number of bands below it."""
        return self.foot + height * self.step

    def number(self, place: int, height: float) -> tuple[float, float]:
        """Return the position of a token's number: below its word, or beside it if words are upright."""
        if self.upright:
            return self.columns[place] + _UPRIGHT / 2 + 0.04, self.y(height) - 0.02
        return self.columns[place], self.y(height) - _HIGH / 2 - _NUMBER

    def size(self, bands: int) -> tuple[float, float]:
        """Return the width, and the height without the texts above the tree."""
        top = max(self.words.values()) / 2 if self.upright else _HIGH
        return max(right for _, right in self.ends.values()) + 0.2, self.y(bands) + top + 0.12


def widths(edges: Sequence[Edge]) -> list[float]:
    """Return widths in points, proportional to the scores' magnitudes, from 0.3 to 12.

    The edges of one query in one layer are together at most 30 points wide.
    """
    bundles: dict[tuple[int, int], float] = {}
    for edge in edges:
        bundles[edge.layer, edge.query] = bundles.get((edge.layer, edge.query), 0.0) + abs(edge.score)
    most = max((abs(edge.score) for edge in edges), default=0.0) or 1.0
    unit = min(12 / most, 30 / max(most, *bundles.values(), 0.0))
    return [max(unit * abs(edge.score), 0.3) for edge in edges]


def numbers_of(edges: Sequence[Edge]) -> list[str]:
    """Format the attributions, all with as many decimals as the smallest one needs to differ from zero."""
    least = min((abs(edge.attribution) for edge in edges if edge.attribution), default=1.0)
    decimals = max(2, 1 + math.ceil(-math.log10(least)))
    form = f"+.{decimals}f" if decimals < 8 else "+.1e"
    return [format(edge.attribution, form) for edge in edges]


def starts(plan: Plan, columns: dict[int, float]) -> list[float]:
    """Return where each edge begins, relative to its token's middle: in one layer side by side, ordered by ends."""
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
