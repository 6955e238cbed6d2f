"""Warnings that point to the user's line, however many frames of this package and of Captum lie between."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import captum

_INSIDE = (str(Path(__file__).parent), str(Path(captum.__file__).parent))


def warn(message: str) -> None:
    """Give a UserWarning at the first line outside this package and Captum."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level + 1)
