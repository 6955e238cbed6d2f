"""State that modules keep from one pass to the next besides their parameters, saved and restored.

Examples are a moving average, an observer, a counter, a table that grows with the longest input so far. The method runs
many passes with other contexts, and these must not change such state. Buffers and the attributes that a module has set
on itself are restored together, since they often depend on each other. State inside other objects (a list, an object of
the user's) is not restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_COPY = 2**20
"""Bytes: larger buffers are not copied, as they are no running statistics but packed weights."""

_TORCHS_OWN = frozenset(vars(nn.Module())) | {"forward"}


class ModuleState:
    """The buffers, and the attributes other than torch's own, of some modules and their submodules.

    Args:
        roots: The modules.
    """

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        modules = dict.fromkeys(module for root in roots for module in root.modules())
        # A scripted module keeps its buffers in no dictionary.
        scopes = [scope for module in modules for scope in (module._buffers, vars(module))]
        self._scopes = [scope for scope in scopes if isinstance(scope, dict)]
        self._kept = [{name: scope[name] for name in scope if name not in _TORCHS_OWN} for scope in self._scopes]
        tensors = {id(v): v for kept in self._kept for v in kept.values() if type(v) is Tensor}
        self._copies = [(tensor, tensor.clone()) for tensor in tensors.values() if _is_small(tensor)]

    def restore(self) -> bool:
        """Restore what has changed, and return whether anything had."""
        changed = [pair for pair in zip(self._scopes, self._kept, strict=True) if not _is_same(*pair)]
        for scope, kept in changed:
            # New tensors are removed. Other new attributes stay: they may record a change that lasts.
            for name in [name for name in scope if name not in _TORCHS_OWN and name not in kept]:
                if type(scope[name]) is Tensor:
                    del scope[name]
            scope.update(kept)
        # By value: batch normalisation writes without raising the version counter.
        written = [(tensor, copy) for tensor, copy in self._copies if not torch.equal(tensor, copy)]
        for tensor, copy in written:
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                tensor.copy_(copy)
        return bool(changed or written)


def _is_small(tensor: Tensor) -> bool:
    """Whether a tensor is plain, and fast to copy and compare."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    return plain and tensor.nbytes <= _LARGEST_COPY


def _is_same(scope: dict[str, Any], kept: dict[str, Any]) -> bool:
    new = [name for name in scope if name not in _TORCHS_OWN and name not in kept]
    grown = any(type(scope[name]) is Tensor for name in new)
    return not grown and all(name in scope and scope[name] is value for name, value in kept.items())
