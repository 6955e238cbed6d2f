"""How many heads an attention layer says that it has."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

found_heads: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""By layer that a pass has found, the number of heads of its call."""

_NAMES = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads", "nhead")


def head_count(layer: nn.Module) -> int | None:
    """Return the number of heads, from the layer's attributes, its configuration, or a pass that found it."""
    config: Any = getattr(layer, "config", None)
    counts = [getattr(layer, name, None) for name in _NAMES] + [getattr(config, name, None) for name in _NAMES]
    whole = (count for count in counts if isinstance(count, int) and not isinstance(count, bool))
    return next(whole, found_heads.get(layer))
