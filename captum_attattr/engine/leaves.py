"""The leaves of what modules are given and give: tensors and other things, without the containers around them.

Like torch's pytrees, with a shortcut for a single tensor, the usual case, since pytrees are slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Rebuild = Callable[[Sequence[Any]], Any]
"""Puts other leaves in the place of these, into new containers."""


def leaves_of(value: Any) -> tuple[list[Any], Rebuild]:
    """Return the leaves of a module's output, and what puts others in their place."""
    if isinstance(value, Tensor) or value is None:
        return [value], _only
    leaves, form = tree_flatten(value)
    return leaves, lambda others: tree_unflatten(others, form)


def leaves_of_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Rebuild]:
    """Return the leaves of a module's arguments; objects (caches) are not taken apart."""
    leaves = [*args, *kwargs.values()]
    if not any(_is_container(leaf) for leaf in leaves):
        return leaves, partial(_arguments, len(args), tuple(kwargs))
    leaves, form = tree_flatten((args, kwargs), is_leaf=lambda value: not _is_container(value))
    return leaves, lambda others: tree_unflatten(others, form)


def lengths(leaves: Sequence[Any]) -> list[int]:
    """Return the length of each tensor; -1 for anything without a length."""
    return [leaf.shape[0] if isinstance(leaf, Tensor) and leaf.dim() else -1 for leaf in leaves]


def _only(leaves: Sequence[Any]) -> Any:
    (leaf,) = leaves
    return leaf


def _arguments(count: int, names: tuple[str, ...], leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(leaves[:count]), dict(zip(names, leaves[count:], strict=True))


def _is_container(value: Any) -> bool:
    return isinstance(value, (tuple, list, dict))
