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

from captum_attattr.warned import warn

_LARGEST_COPY = 64 * 2**20
"""Bytes: larger buffers are not copied, only checked for writes."""
_LARGEST_PACKED = 2**20
"""The same for whole numbers, which may be packed weights."""

_TORCHS_OWN = frozenset(vars(nn.Module())) | {"forward"}


class ModuleState:
    """The buffers, and the attributes other than torch's own, of some modules and their submodules.

    Args:
        roots: The modules.
    """

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        self._modules = list(dict.fromkeys(module for root in roots for module in root.modules()))
        self._kept = [[_named(scope) for scope in _scopes(module)] for module in self._modules]
        held = [value for scopes in self._kept for kept in scopes for value in kept.values()]
        tensors = {id(value): value for value in held if type(value) is Tensor}
        self._copies = [(tensor, tensor.clone()) for tensor in tensors.values() if _is_small(tensor)]
        large = [tensor for tensor in tensors.values() if not _is_small(tensor) and not tensor.is_inference()]
        self._versions = [(tensor, tensor._version) for tensor in large]

    def restore(self) -> bool:
        """Restore what has changed, and return whether anything had.

        Warns:
            UserWarning: A buffer has changed that is too large to be copied.
        """
        changed = [_put_back(module, kept) for module, kept in zip(self._modules, self._kept, strict=True)]
        # By value: batch normalisation writes without raising the version counter.
        written = [(tensor, copy) for tensor, copy in self._copies if not torch.equal(tensor, copy)]
        for tensor, copy in written:
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                tensor.copy_(copy)
        for tensor, version in self._versions:
            if tensor._version != version:
                warn(
                    f"A buffer of the model, of shape {tuple(tensor.shape)}, is written to by each pass and is too "
                    "large to be put back: it holds what the passes of this method left there."
                )
        return any(changed) or bool(written)


def _scopes(module: nn.Module) -> list[dict[str, Any]]:
    # A scripted module's buffers are in no dictionary.
    return [scope for scope in (module._buffers, vars(module)) if isinstance(scope, dict)]


def _named(scope: dict[str, Any]) -> dict[str, Any]:
    # Of a copy, which is made in one step: another thread may set a module's forward meanwhile.
    return {name: value for name, value in scope.copy().items() if name not in _TORCHS_OWN}


def _put_back(module: nn.Module, kept: Sequence[dict[str, Any]]) -> bool:
    """Give a module the buffers and attributes that it had; return whether it had others."""
    scopes = _scopes(module)
    new = [(scope, name) for scope, old in zip(scopes, kept, strict=True) for name in _named(scope) if name not in old]
    # New tensors go, and what is new beside them, which may say how far they reach. What is new without a tensor stays,
    # as after any first pass: it may say what was done for good.
    grown = any(type(scope.get(name)) is Tensor for scope, name in new)
    changed = grown
    for scope, name in new if grown else ():
        scope.pop(name, None)
    for scope, old in zip(scopes, kept, strict=True):
        if any(name not in scope or scope[name] is not value for name, value in old.items()):
            scope.update(old)
            changed = True
    return changed


def _is_small(tensor: Tensor) -> bool:
    """Whether a tensor is plain, and fast to copy and compare."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return plain and tensor.nbytes <= (_LARGEST_PACKED if whole else _LARGEST_COPY)
