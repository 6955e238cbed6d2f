"""Attributions of a layer, computed for a range of queries at a time and reduced on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_attattr.aggregation import REDUCTIONS, Reduction
from captum_attattr.engine.layer_path import LayerPath, full_precision

Name = Literal["sum", "absolute", "max", "received", "sent", "first"]
Reduce = Name | Reduction | Sequence[Name | Reduction] | None


def reductions(reduce: Any) -> list[Reduction | None]:
    """Return the reductions that ``reduce`` names, None for all attributions.

    Raises:
        ValueError: ``reduce`` holds an unknown name, or is empty.
    """
    if reduce is None:
        return [None]
    several = list(reduce) if isinstance(reduce, (list, tuple)) else [reduce]
    for one in several:
        if not isinstance(one, Reduction) and (not isinstance(one, str) or one not in REDUCTIONS):
            names = ", ".join(map(repr, REDUCTIONS))
            raise ValueError(
                f"Unknown reduction {one!r}. Choose of {names}, TopPairs(k) and any other Reduction, or give a tuple "
                "of these."
            )
    if not several:
        raise ValueError("reduce is empty: name at least one reduction, or leave it out for all attributions.")
    return [REDUCTIONS[one] if isinstance(one, str) else one for one in several]


@dataclass
class LayerAttributions:
    """The attributions of some examples in one layer: their reductions, their sum, and their norm."""

    kept: list[Any]
    """By reduction: a tensor, or several, with the examples along dimension 0."""
    sum: Tensor
    norm: Tensor
    other_norm: Tensor
    """The norm of the attributions by another gradient, where one was given."""


def norm(attributions: Sequence[LayerAttributions]) -> Tensor:
    """Compute the norm of the attributions of all these layers together, one for each example."""
    together: Tensor = torch.stack([layer.norm for layer in attributions]).norm(dim=0)
    return together


class Keep(NamedTuple):
    """The reductions to compute, None for all attributions, and whether attributions carry the factor A - A0."""

    reductions: Sequence[Reduction | None]
    multiply_by_inputs: bool


Gradient = Callable[[slice, int], Tensor]
"""Mean gradient with respect to the attention of a range of queries to the first keys, (batch, head, queries, keys)."""


def gather(path: LayerPath, gradient: Gradient, keep: Keep, other: Gradient | None = None) -> LayerAttributions:
    """Compute and reduce the attributions (A - A0) * gradient of a layer, for a range of queries at a time.

    Args:
        path: The layer's path, for the examples in question.
        gradient: The mean gradient.
        keep: What to keep.
        other: A gradient of whose attributions the norm is asked for as well.
    """
    kept: list[Any] = [path.context_change.new_zeros(path.state.shape) if r is None else None for r in keep.reductions]
    total = squares = others = path.context_change.new_zeros(len(path.context_change))
    for queries in path.state.blocks():
        keys = path.state.keys(queries)
        change = path.change(queries, keys)
        with full_precision(change):
            gradients = gradient(queries, keys)
            attributions = change * gradients
            total = total + attributions.flatten(1).sum(1)
            squares = squares + attributions.flatten(1).norm(dim=1) ** 2
            if other is not None:
                others = others + (change * other(queries, keys)).flatten(1).norm(dim=1) ** 2
            if not keep.multiply_by_inputs:
                attributions = gradients.masked_fill(~path.state.pairs(queries, keys), 0)
            if any(reduction is not None for reduction in keep.reductions):
                attributions = pad(attributions, (0, path.state.shape[3] - keys))
            for place, reduction in enumerate(keep.reductions):
                if reduction is None:
                    kept[place][:, :, queries, :keys] = attributions[..., :keys]
                else:
                    kept[place] = _extended(kept[place], attributions, queries.start, reduction)
    return LayerAttributions(kept, total, squares.sqrt(), others.sqrt())


def _extended(before: Any, attributions: Tensor, first: int, reduction: Reduction) -> Any:
    """Return the scores so far joined with those of the next range of queries."""
    version = attributions._version
    scores = _checked(reduction.score(attributions, first), reduction, len(attributions))
    if attributions._version != version:
        raise ValueError(
            f"{type(reduction).__name__}.score writes into the attributions, which others read: copy them."
        )
    return scores if before is None else _checked(reduction.join(before, scores), reduction, len(attributions))


def _checked(scores: Any, reduction: Reduction, examples: int) -> Any:
    parts = scores if isinstance(scores, tuple) and scores else (scores,)
    for one in parts:
        if not isinstance(one, Tensor) or one.dim() == 0 or len(one) != examples:
            found = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise ValueError(
                f"{type(reduction).__name__} must give a tensor, or a named tuple of tensors, with the {examples} "
                f"examples along the first axis; it gave {found}."
            )
    return scores


def as_asked(kept: Sequence[Any], reduce: Any) -> Any:
    """Return a layer's results in the form of ``reduce``: one for one name, a tuple for several."""
    return tuple(kept) if isinstance(reduce, (list, tuple)) else kept[0]
