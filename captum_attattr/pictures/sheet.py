"""A figure whose parts are placed in inches from the top left, before its size is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_attattr.pictures.fonts import use_fonts


class Sheet:
    """A figure to fill from the top; :meth:`fit` puts everything into place.

    Args:
        figure: An empty figure.
        families: Fonts to use beside the present one.
    """

    def __init__(self, figure: Figure, families: Sequence[str]) -> None:
        self.figure, self.families = figure, families
        figure.set_layout_engine("none")
        self._boxes: list[tuple[Axes, float, float, float, float]] = []
        self._texts: list[tuple[Any, float, float]] = []

    def add(self, name: str) -> Axes:
        """Add axes, to be put into place later."""
        return self.figure.add_axes((0, 0, 1, 1), label=name)

    def put(self, axes: Axes, left: float, top: float, width: float, height: float) -> None:
        """Say where axes are, in inches."""
        self._boxes.append((axes, left, top, width, height))

    def write(self, text: str, left: float, top: float, **look: Any) -> None:
        """Write a text whose upper left corner is there."""
        written = self.figure.text(0, 0, text, va="top", parse_math=False, **look)
        use_fonts(self.families, written)
        self._texts.append((written, left, top))

    def fit(self, width: float, height: float, *, resize: bool) -> None:
        """Put everything into place on a sheet of this size: that of the figure, or scaled to the size it has."""
        if resize:
            self.figure.set_size_inches(width, height)
        wide, high = self.figure.get_size_inches()
        scale = min(wide / width, high / height)
        for axes, left, top, across, tall in self._boxes:
            left, top, across, tall = (scale * inches for inches in (left, top, across, tall))
            axes.set_position((left / wide, 1 - (top + tall) / high, across / wide, tall / high))
        for text, left, top in self._texts:
            text.set_position((scale * left / wide, 1 - scale * top / high))
