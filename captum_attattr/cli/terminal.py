"""Common parts of the commands: numbers as arguments, printable characters, output folders."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def count(word: str) -> int:
    """Parse a whole number of at least 1 from the command line."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least 1")
    return int(word)


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
