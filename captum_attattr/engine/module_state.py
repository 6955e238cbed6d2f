"""What modules keep from one pass to the next besides their parameters, and how to put it back.

A moving average, an observer, a counter, a table that grows with the longest input so far: passes with other contexts,
and many more of them than the user made, must leave no trace there. Buffers and the attributes that a module has set on
itself are put back together, since one often says how far the other goes. What lies deeper (a list, an object of the
user's own) cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_COPY = 2**20
"""Bytes: a buffer beyond this (packed weights) is no running statistic."""

_TORCHS_OWN = frozenset(vars(nn.Module())) | {"forward"}


class ModuleState:
    """Buffers, and attributes other than torch's own, of some modules and all that they hold.

    Args:
        roots: The modules.
    """

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        modules = dict.fromkeys(module for root in roots for module in root.modules())
        # A scripted module's buffers are in no dictionary.
        scopes = [scope for module in modules for scope in (module._buffers, vars(module))]
        self._scopes = [scope for scope in scopes if isinstance(scope, dict)]
        self._kept = [{name: scope[name] for name in scope if name not in _TORCHS_OWN} for scope in self._scopes]
        tensors = {id(v): v for kept in self._kept for v in kept.values() if type(v) is Tensor}
        self._copies = [(tensor, tensor.clone()) for tensor in tensors.values() if _is_small(tensor)]

    def restore(self) -> bool:
        """Put back whatever has changed; whether anything had."""
        changed = [pair for pair in zip(self._scopes, self._kept, strict=True) if not _is_same(*pair)]
        for scope, kept in changed:
            # New tensors go. What else is new stays, as after any first pass: it may say what was done for good.
            for name in [name for name in scope if name not in _TORCHS_OWN and name not in kept]:
                if type(scope[name]) is Tensor:
                    del scope[name]
            scope.update(kept)
        # By their numbers: batch normalisation does not count what it writes as a new version.
        written = [(tensor, copy) for tensor, copy in self._copies if not torch.equal(tensor, copy)]
        for tensor, copy in written:
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                tensor.copy_(copy)
        return bool(changed or written)


def _is_small(tensor: Tensor) -> bool:
    """A plain tensor that is soon copied and compared."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    return plain and tensor.nbytes <= _LARGEST_COPY


def _is_same(scope: dict[str, Any], kept: dict[str, Any]) -> bool:
    new = [name for name in scope if name not in _TORCHS_OWN and name not in kept]
    grown = any(type(scope[name]) is Tensor for name in new)
    return not grown and all(name in scope and scope[name] is value for name, value in kept.items())
