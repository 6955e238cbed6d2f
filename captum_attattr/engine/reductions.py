"""What is kept of a layer's shares: all of them, or scores, gathered a range of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_attattr.engine.path import Path, full_precision


@dataclass(frozen=True)
class TopPairs:
    """Keep the k pairs with the largest magnitude, of all heads of a layer: ``reduce=TopPairs(k)``."""

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopPairs needs a whole number of pairs of at least 1, got {self.k!r}.")


class Pairs(NamedTuple):
    """Pairs of a layer, strongest first: (batch, k) each."""

    shares: Tensor
    heads: Tensor
    queries: Tensor
    keys: Tensor


Reduction = Literal["sum", "absolute", "max", "received", "sent"] | TopPairs
Reduce = Reduction | Sequence[Reduction] | None


class _Everything:
    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        self.found = [like.new_zeros(shape)]

    def add(self, queries: slice, shares: Tensor) -> None:
        self.found[0][:, :, queries] = shares


class _Scores:
    """A sum or maximum over pairs: ``of`` makes the scores of a range of queries, ``join`` puts ranges together."""

    def __init__(self, of: Callable[[Tensor], Tensor], join: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._of, self._join = of, join
        self.found: list[Tensor] = []

    def add(self, queries: slice, shares: Tensor) -> None:
        scores = self._of(shares)
        self.found = [self._join(self.found[0], scores) if self.found else scores]


class _Top:
    def __init__(self, k: int) -> None:
        self._k = k
        self.found: list[Tensor] = []

    def add(self, queries: slice, shares: Tensor) -> None:
        flat = shares.flatten(1)
        _, best = flat.abs().topk(min(self._k, flat.shape[1]), 1)
        heads, rest = best // (shares.shape[2] * shares.shape[3]), best % (shares.shape[2] * shares.shape[3])
        new = [flat.gather(1, best), heads, rest // shares.shape[3] + queries.start, rest % shares.shape[3]]
        both = [torch.cat(pair, 1) for pair in zip(self.found, new, strict=True)] if self.found else new
        _, best = both[0].abs().topk(min(self._k, both[0].shape[1]), 1)
        self.found = [column.gather(1, best) for column in both]


def _received(shares: Tensor) -> Tensor:
    return shares.sum((1, 2))


def _sent(shares: Tensor) -> Tensor:
    return shares.sum((1, 3))


_SCORES: dict[Any, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": (lambda shares: shares.sum((2, 3)), torch.add),
    "absolute": (lambda shares: shares.abs().sum((2, 3)), torch.add),
    "max": (lambda shares: shares.amax((2, 3)), torch.maximum),
    "received": (_received, torch.add),
    "sent": (_sent, lambda one, other: torch.cat([one, other], 1)),
}


def reductions(reduce: Any) -> list[Reduction | None]:
    """``reduce`` as a list, made sure of.

    Raises:
        ValueError: An unknown name, or no name at all.
    """
    several = list(reduce) if isinstance(reduce, (list, tuple)) else [reduce]
    for one in several:
        if not isinstance(one, TopPairs) and one not in _SCORES and (one is not None or len(several) > 1):
            names = ", ".join(map(repr, _SCORES))
            raise ValueError(f"Unknown reduction {one!r}. Choose of {names} and TopPairs(k), or a tuple of these.")
    if not several:
        raise ValueError("reduce is empty: name at least one reduction, or leave it out for all shares.")
    return several


def _collector(reduction: Any, path: Path) -> Any:
    if reduction is None:
        return _Everything(path.state.shape, path.context_change)
    return _Top(reduction.k) if isinstance(reduction, TopPairs) else _Scores(*_SCORES[reduction])


@dataclass
class Shares:
    """Of some examples in one layer: what is kept of the shares, their sum, and their norm."""

    kept: list[list[Tensor]]
    """By reduction: its tensors, examples in front."""
    sum: Tensor
    norm: Tensor


def norm(shares: Sequence[Shares]) -> Tensor:
    """Of the shares of all these layers together, an example each."""
    return torch.stack([layer.norm for layer in shares]).norm(dim=0)


class Keep(NamedTuple):
    """What to keep, and whether it carries the factor A - A0."""

    reductions: Sequence[Reduction | None]
    multiply_by_inputs: bool


def gather(path: Path, gradient: Callable[[slice], Tensor], keep: Keep) -> Shares:
    """Shares (A - A0) * gradient of a layer, reduced range by range of its queries.

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
            shares = change * gradients
            total = total + shares.flatten(1).sum(1)
            squares = squares + shares.flatten(1).norm(dim=1) ** 2
            values = shares if keep.multiply_by_inputs else gradients.masked_fill(~path.state.pairs(queries), 0)
            for collector in collectors:
                collector.add(queries, values)
    return Shares([collector.found for collector in collectors], total, squares.sqrt())


def as_asked(kept: Sequence[Sequence[Tensor]], reduce: Any) -> Any:
    """A layer's results in the form of ``reduce``: one for one, a tuple for several."""
    results = tuple(found[0] if len(found) == 1 else Pairs(*found) for found in kept)
    return results if isinstance(reduce, (list, tuple)) else results[0]
