"""A sentence with coloured words, in lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from captum_attattr.colours import colour, ink
from captum_attattr.pictures.fonts import use_fonts
from captum_attattr.pictures.signed_map import dpi_of
from captum_attattr.text.words import Span

_LINE, _SIZE = 0.3, 11.0
"""Inches from line to line, and size of the letters."""
_INDENT, _SPACE, _PADDING = 0.06, 0.1, 2.5
"""Inches on the left and between words; points around a word."""


def draw_sentence(
    axes: Axes,
    words: Sequence[str],
    spans: Sequence[Span | None],
    scores: np.ndarray,
    width: float,
    families: Sequence[str],
) -> float:
    """Write the words in lines of ``width`` inches, with the colours of their scores.

    Args:
        axes: Empty axes, to be given that width and the height that is returned.
        words, spans: The words, and where they are in the text: neighbours without white space stay together.
        scores: A number for each word; the largest magnitude has the darkest colour.
        width: Inches.
        families: Fonts to use beside the present one.

    Returns:
        The height in inches.
    """
    reach = float(np.abs(scores).max()) or 1.0
    drawn = [_word(axes, word, float(score) / reach) for word, score in zip(words, scores, strict=True)]
    use_fonts(families, axes)
    dpi = dpi_of(axes)
    sizes = [text.get_window_extent().width / dpi + 2 * _PADDING / 72 for text in drawn]
    across, line = 0.0, 0
    for place, (text, size) in enumerate(zip(drawn, sizes, strict=True)):
        close = place > 0 and _touch(spans, place)
        across += 0.0 if place == 0 else (0.02 if close else _SPACE)
        if across and across + size > width - _INDENT:
            across, line = 0.0, line + 1
        text.set_position((_INDENT + across + _PADDING / 72, (line + 0.5) * _LINE))
        across += size
    height = (line + 1) * _LINE
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return height


def _word(axes: Axes, word: str, score: float) -> Text:
    box = {"boxstyle": f"round,pad={_PADDING / _SIZE},rounding_size=0.25", "facecolor": colour(score), "linewidth": 0}
    return axes.text(0, 0, word, fontsize=_SIZE, color=ink(score), va="center", bbox=box, parse_math=False)


def _touch(spans: Sequence[Span | None], place: int) -> bool:
    """Whether a word follows the one before without white space."""
    if not spans:
        return False
    before, here = spans[place - 1], spans[place]
    return before is not None and here is not None and before.part == here.part and before.stop == here.start
