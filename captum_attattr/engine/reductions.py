"""Reductions of a layer's attributions to scores, computed for a range of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_attattr.engine.layer_path import LayerPath, full_precision


@dataclass(frozen=True)
class TopPairs:
    """Keep the k pairs with the largest magnitude, of all heads of a layer: ``reduce=TopPairs(k)``."""

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopPairs needs a whole number of pairs of at least 1, got {self.k!r}.")


class Pairs(NamedTuple):
    """The pairs of a layer with the largest magnitude, the largest first: (batch, k) each."""

    attributions: Tensor
    heads: Tensor
    queries: Tensor
    keys: Tensor

    @property
    def shares(self) -> Tensor:
        """The former name of ``attributions``."""
        return self.attributions


Reduction = Literal["sum", "absolute", "max", "received", "sent"] | TopPairs
Reduce = Reduction | Sequence[Reduction] | None


class _Everything:
    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        self.found = [like.new_zeros(shape)]

    def add(self, queries: slice, attributions: Tensor) -> None:
        self.found[0][:, :, queries] = attributions


class _Scores:
    """A sum or maximum over pairs: ``score`` computes it for a range of queries, ``join`` combines two ranges."""

    def __init__(self, score: Callable[[Tensor], Tensor], join: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._score, self._join = score, join
        self.found: list[Tensor] = []

    def add(self, queries: slice, attributions: Tensor) -> None:
        scores = self._score(attributions)
        self.found = [self._join(self.found[0], scores) if self.found else scores]


class _Top:
    def __init__(self, k: int) -> None:
        self._k = k
        self.found: list[Tensor] = []

    def add(self, queries: slice, attributions: Tensor) -> None:
        flat = attributions.flatten(1)
        _, best = flat.abs().topk(min(self._k, flat.shape[1]), 1)
        rows, keys = attributions.shape[2:]
        heads, rest = best // (rows * keys), best % (rows * keys)
        new = [flat.gather(1, best), heads, rest // keys + queries.start, rest % keys]
        both = [torch.cat(pair, 1) for pair in zip(self.found, new, strict=True)] if self.found else new
        _, best = both[0].abs().topk(min(self._k, both[0].shape[1]), 1)
        self.found = [column.gather(1, best) for column in both]


def _received(attributions: Tensor) -> Tensor:
    return attributions.sum((1, 2))


def _sent(attributions: Tensor) -> Tensor:
    return attributions.sum((1, 3))


_SCORES: dict[Any, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": (lambda attributions: attributions.sum((2, 3)), torch.add),
    "absolute": (lambda attributions: attributions.abs().sum((2, 3)), torch.add),
    "max": (lambda attributions: attributions.amax((2, 3)), torch.maximum),
    "received": (_received, torch.add),
    "sent": (_sent, lambda one, other: torch.cat([one, other], 1)),
}


def reductions(reduce: Any) -> list[Reduction | None]:
    """Check ``reduce`` and return it as a list.

    Raises:
        ValueError: ``reduce`` holds an unknown name, or is empty.
    """
    several = list(reduce) if isinstance(reduce, (list, tuple)) else [reduce]
    for one in several:
        if not isinstance(one, TopPairs) and one not in _SCORES and (one is not None or len(several) > 1):
            names = ", ".join(map(repr, _SCORES))
            raise ValueError(f"Unknown reduction {one!r}. Choose of {names} and TopPairs(k), or give a tuple of these.")
    if not several:
        raise ValueError("reduce is empty: name at least one reduction, or leave it out for all attributions.")
    return several


def _collector(reduction: Any, path: LayerPath) -> Any:
    if reduction is None:
        return _Everything(path.state.shape, path.context_change)
    return _Top(reduction.k) if isinstance(reduction, TopPairs) else _Scores(*_SCORES[reduction])


@dataclass
class LayerAttributions:
    """The attributions of some examples in one layer: their reductions, their sum, and their norm."""

    kept: list[list[Tensor]]
    """By reduction: its tensors, with the examples along dimension 0."""
    sum: Tensor
    norm: Tensor


def norm(attributions: Sequence[LayerAttributions]) -> Tensor:
    """Compute the norm of the attributions of all these layers together, one for each example."""
    return torch.stack([layer.norm for layer in attributions]).norm(dim=0)


class Keep(NamedTuple):
    """The reductions to compute, and whether attributions carry the factor A - A0."""

    reductions: Sequence[Reduction | None]
    multiply_by_inputs: bool


def gather(path: LayerPath, gradient: Callable[[slice], Tensor], keep: Keep) -> LayerAttributions:
    """Compute and reduce the attributions (A - A0) * gradient of a layer, for a range of queries at a time.

    Args:
        path: The layer's path, for the examples in question.
        gradient: Mean gradient with respect to the attention of a range of queries, (batch, head, queries, key).
        keep: What to keep.
    """
    collectors = [_collector(reduction, path) for reduction in keep.reductions]
    total = squares = path.context_change.new_zeros(len(path.context_change))
    for queries in path.state.blocks():
        change = path.change(queries)
        with full_precision(change):
            gradients = gradient(queries)
            attributions = change * gradients
            total = total + attributions.flatten(1).sum(1)
            squares = squares + attributions.flatten(1).norm(dim=1) ** 2
            values = attributions if keep.multiply_by_inputs else gradients.masked_fill(~path.state.pairs(queries), 0)
            for collector in collectors:
                collector.add(queries, values)
    return LayerAttributions([collector.found for collector in collectors], total, squares.sqrt())


def as_asked(kept: Sequence[Sequence[Tensor]], reduce: Any) -> Any:
    """Return a layer's results in the form of ``reduce``: one for one name, a tuple for several."""
    results = tuple(found[0] if len(found) == 1 else Pairs(*found) for found in kept)
    return results if isinstance(reduce, (list, tuple)) else results[0]
