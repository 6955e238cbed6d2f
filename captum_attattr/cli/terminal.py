"""What the commands share: numbers given, characters shown, folders written to."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def count(word: str) -> int:
    """A number of things, at least one, from the command line."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least 1")
    return int(word)


def printable(text: str) -> str:
    """Characters that the terminal's encoding lacks, as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def writable(name: str) -> Path:
    """The folder for the answers, tried before the work is done and not after."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: several processes may try at once
            pass
    except OSError as error:
        raise ValueError(f"the output folder {name} cannot be written: {error}") from error
    return folder
