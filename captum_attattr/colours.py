"""The colours of all pictures: purple is for the target, orange against it, white is zero; attention is green.

Purple and orange are ColorBrewer's PuOr, which people with all common kinds of colour vision can tell apart.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, to_hex

COLOURS, FOR, AGAINST = "PuOr", "#542788", "#b35806"

# At its ends the colour map is so dark that purple and orange look alike.
_ENDS = 0.07
_ATTENTION = LinearSegmentedColormap.from_list("attention", ["#ffffff", "#b9dcd9", "#3f9a95", "#053f3c"])


@cache
def palette(count: int = 41) -> list[str]:
    """Return colours for the numbers from -1 to 1, evenly spaced, with white in the middle."""
    colours = [to_hex(colormaps[COLOURS](place)) for place in np.linspace(_ENDS, 1 - _ENDS, count)]
    colours[count // 2] = "#ffffff"
    return colours


@cache
def attention_palette(count: int) -> list[str]:
    """Return colours for the numbers from 0 to the largest, evenly spaced."""
    return [to_hex(_ATTENTION(place)) for place in np.linspace(0, 1, count)]


def colour(number: float) -> str:
    """Return the colour of a number from -1 to 1.

    Example:
        >>> colour(0.0)
        '#ffffff'
    """
    colours = palette()
    return colours[round((len(colours) - 1) * (min(max(number, -1.0), 1.0) + 1) / 2)]


def ink(number: float) -> str:
    """Return black or white, whichever is legible on :func:`colour`."""
    return "#ffffff" if abs(number) > 0.6 else "#1c1b22"
