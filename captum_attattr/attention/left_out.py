"""Modules that seem to compute attention, and are not among the layers that were found."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

# Attention modules are recognised by their class's name and their projections: q_proj, c_attn, query_key_value, Wqkv.
_CLASS = re.compile("attention|attn", re.IGNORECASE)
_PROJECTIONS = {"q", "k", "query", "key", "qkv", "wqkv", "kv", "att", "attn", "attention"}


def attention_left_out(model: nn.Module, layers: Sequence[nn.Module], refused: Sequence[nn.Module] = ()) -> str:
    """Describe the modules that seem to compute attention and are not among ``layers``; empty if there are none.

    Args:
        model: The model.
        layers: The layers that were found.
        refused: Modules that compute attention in a way that cannot be followed.
    """
    inside = {module for layer in layers for module in layer.modules()}
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        seems = module not in inside and _seems_to_attend(module) and inside.isdisjoint(module.modules())
        if module in refused or seems:
            found.setdefault(type(module).__name__, []).append(name)
    return "; ".join(f"{len(names)} {kind} ({_shortened(names)})" for kind, names in found.items())


def _seems_to_attend(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return True
    held = [name for names in (module.named_children(), module.named_parameters(recurse=False)) for name, _ in names]
    projects = any(_PROJECTIONS & set(name.lower().split("_")) for name in held)
    return bool(_CLASS.search(type(module).__name__)) and projects and not any(map(_seems_to_attend, module.children()))


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
