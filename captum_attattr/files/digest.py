"""Short hashes of tensors and plain values, to compare them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Digest:
    """A running hash of tensors and plain values."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Add a tensor, a mapping or sequence of values, or anything with a stable ``repr``."""
        if isinstance(value, Tensor):
            self._hash.update(f"{tuple(value.shape)} {value.dtype}".encode() + bytes_of(value))
        elif isinstance(value, Mapping):
            for name in value:
                self.add(name)
                self.add(value[name])
        elif isinstance(value, (list, tuple)):
            self._hash.update(f"{len(value)}:".encode())
            for one in value:
                self.add(one)
        else:
            self._hash.update(repr(value).encode())

    def __str__(self) -> str:
        """The hash of everything added so far."""
        return self._hash.hexdigest()[:16]


def bytes_of(tensor: Tensor) -> bytes:
    """Return a tensor's content, from any device."""
    if tensor.is_meta:  # offloaded weights are not read from disk for this
        return b"meta"
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    flat = flat.as_strided(flat.shape, (1,))  # a single number may have any stride and count as contiguous
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
