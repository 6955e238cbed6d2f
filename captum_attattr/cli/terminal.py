"""The terminal and the output folder: characters that can be printed, a folder that can be written."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def printable(text: str) -> str:
    """Escape characters that the terminal's encoding lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def writable(name: str) -> Path:
    """Make the output folder and check before the work that it can be written."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a unique name, as several processes may try at once
            pass
    except OSError as error:
        raise ValueError(f"the output folder {name} cannot be written: {error}") from error
    return folder
