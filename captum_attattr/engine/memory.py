"""Recognition of out-of-memory errors: torch has a class of its own for them on some devices only."""

from __future__ import annotations

import torch

_MESSAGES = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "could not create a primitive", "could not create a memory",  # oneDNN
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MESSAGES)
