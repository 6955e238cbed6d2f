"""Files of results: their folders are made, and what cannot be written is said in one way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def writing(what: str, path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make the folder of the file that the block writes.

    Raises:
        ValueError: ``what`` cannot be written there.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield file
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{what} cannot be written to {file}: {error}") from error
