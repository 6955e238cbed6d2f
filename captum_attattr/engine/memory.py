"""Telling that memory ran out: torch has an error of its own for that on some devices only."""

from __future__ import annotations

import torch

_MESSAGES = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
    "could not create a primitive", "could not create a memory",  # oneDNN
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MESSAGES)
