"""The first tensor of numbers that a module got: by custom, the states of the queries."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def first_tensor(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor of numbers among the arguments, in the order of the forward's parameters."""
    names = list(inspect.signature(type(module).forward).parameters)
    later = sorted(kwargs, key=lambda name: names.index(name) if name in names else len(names))
    leaves = tree_leaves([*args, *(kwargs[name] for name in later)])
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
