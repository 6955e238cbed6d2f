"""Reductions of attributions: scores of heads, tokens, pairs and layers.

All functions take attributions as :meth:`SelfAttentionAttribution.attribute` returns them: a tensor
(layer, batch, head, query, key), a list of (batch, head, query, key), or one sentence's (layer, head, query, key). The
result has a batch axis if the attributions have one. Signs are kept unless stated otherwise.

On the layerwise path each layer's attributions sum to a difference of its own, F(A) - F(A0). So sums over layers serve
to rank and compare, but do not add up to a difference of the output; on the joint path they do.

A reduction is an object, :class:`Reduction`. With ``reduce=`` :meth:`SelfAttentionAttribution.attribute` computes the
same ones while attributions are made, without the matrices of whole layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_attattr.arguments import check_count

Normalize = Literal["max", "l1", "l2"] | None


class Reduction(ABC):
    """A reduction of a layer's attributions to scores, which can be computed for a few queries at a time.

    Subclass it for scores of your own, and give an object of the class: ``attribute(..., reduce=MyScores())``.

    Example:
        >>> import torch
        >>> from captum_attattr import Reduction
        >>> class LargestOfToken(Reduction):  # the largest attribution that a token receives
        ...     def score(self, attributions, first):
        ...         return attributions.amax((-3, -2))
        ...     def join(self, one, other):
        ...         return torch.maximum(one, other)
        >>> LargestOfToken().score(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]), 0)
        tensor([[3., 2.]])
    """

    @abstractmethod
    def score(self, attributions: Tensor, first: int) -> Any:
        """Compute the scores of a range of queries.

        Args:
            attributions: Those of the range, (..., head, query, key); the first axis is that of the examples.
            first: Number of the range's first query.

        Returns:
            A tensor, or a named tuple of tensors, each with the examples along its first axis.
        """

    @abstractmethod
    def join(self, one: Any, other: Any) -> Any:
        """Combine the scores of a range of queries with those of the next range."""


@dataclass(frozen=True)
class _Named(Reduction):
    compute: Callable[[Tensor], Tensor]
    combine: Callable[[Tensor, Tensor], Tensor]

    def score(self, attributions: Tensor, first: int) -> Tensor:
        return self.compute(attributions)

    def join(self, one: Tensor, other: Tensor) -> Tensor:
        return self.combine(one, other)


class _OfFirstToken(Reduction):
    def score(self, attributions: Tensor, first: int) -> Tensor:
        row = attributions[..., 0, :].sum(-2)
        return row if first == 0 else torch.zeros_like(row)

    def join(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


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


@dataclass(frozen=True)
class TopPairs(Reduction):
    """Keep the k pairs with the largest magnitude, of all heads of a layer: ``reduce=TopPairs(k)``.

    Raises:
        ValueError: k is not a whole number of at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)

    def score(self, attributions: Tensor, first: int) -> Pairs:
        """See :meth:`Reduction.score`; attributions are (batch, head, query, key)."""
        if attributions.dim() != 4:
            raise ValueError("TopPairs gives pairs, not scores: use it as attribute(..., reduce=TopPairs(k)).")
        flat = attributions.flatten(1)
        _, best = flat.abs().topk(min(self.k, flat.shape[1]), 1)
        rows, keys = attributions.shape[2:]
        heads, rest = best // (rows * keys), best % (rows * keys)
        return Pairs(flat.gather(1, best), heads, rest // keys + first, rest % keys)

    def join(self, one: Pairs, other: Pairs) -> Pairs:
        """See :meth:`Reduction.join`."""
        both = [torch.cat(columns, 1) for columns in zip(one, other, strict=True)]
        _, best = both[0].abs().topk(min(self.k, both[0].shape[1]), 1)
        return Pairs(*(column.gather(1, best) for column in both))


HeadReduction = Literal["sum", "absolute", "max"] | Reduction
TokenReduction = Literal["received", "sent", "first"] | Reduction

_OF_HEADS: dict[str, Reduction] = {
    "sum": _Named(lambda attributions: attributions.sum((-2, -1)), torch.add),
    "absolute": _Named(lambda attributions: attributions.abs().sum((-2, -1)), torch.add),
    "max": _Named(lambda attributions: attributions.amax((-2, -1)), torch.maximum),
}
_OF_TOKENS: dict[str, Reduction] = {
    "received": _Named(lambda attributions: attributions.sum((-3, -2)), torch.add),
    "sent": _Named(lambda attributions: attributions.sum((-3, -1)), lambda one, other: torch.cat([one, other], -1)),
    "first": _OfFirstToken(),
}
REDUCTIONS: Mapping[str, Reduction] = {**_OF_HEADS, **_OF_TOKENS}
"""All reductions that have a name."""


def head_scores(
    attributions: Tensor | Sequence[Tensor],
    reduction: HeadReduction = "sum",
    normalize: Normalize = None,
    *,
    within_layer: bool = False,
) -> Tensor:
    """Compute one score a head: how much it adds to its layer's difference F(A) - F(A0).

    Args:
        attributions: See the module.
        reduction: "sum" of a head's attributions (the attribution of the head), "absolute" (sum of magnitudes), or
            "max", the largest attribution of one pair (Hao et al., AAAI 2021, eq. 6, before the mean over examples); or
            a :class:`Reduction` that gives a score a head.
        normalize: Divide by the largest magnitude ("max"), the sum of magnitudes ("l1") or the norm ("l2").
        within_layer: Normalise each layer by itself, not all heads together.

    Returns:
        (layer, head) or (layer, batch, head).

    Example:
        >>> import torch
        >>> from captum_attattr import head_scores
        >>> head_scores(torch.ones(2, 3, 4, 4)).tolist()
        [[16.0, 16.0, 16.0], [16.0, 16.0, 16.0]]
    """
    stacked = stack_layers(attributions)
    scores = _scores(stacked, reduction, _OF_HEADS, "of heads", stacked.shape[:-2])
    return _normalized(scores, normalize, (-1,) if within_layer else (0, -1))


def token_scores(
    attributions: Tensor | Sequence[Tensor], reduction: TokenReduction = "received", normalize: Normalize = None
) -> Tensor:
    """Compute one score a token, of the attributions summed over layers and heads.

    Args:
        attributions: See the module.
        reduction: "received", the sum over all queries with the token as key; "sent", the sum over all keys with the
            token as query; "first", the attribution of the first token ([CLS] in BERT) looking at it; or a
            :class:`Reduction` that gives a score a token. The default is the most faithful one, above all on the joint
            path (``benchmarks/results/faithfulness.md``).
        normalize: As in :func:`head_scores`.

    Returns:
        (token,) or (batch, token).
    """
    pairs = pair_scores(attributions)
    scores = _scores(pairs.unsqueeze(-3), reduction, _OF_TOKENS, "to tokens", pairs.shape[:-1])
    return _normalized(scores, normalize, (-1,))


def _scores(
    attributions: Tensor, reduction: Any, known: Mapping[str, Reduction], kind: str, expected: tuple[int, ...]
) -> Tensor:
    if not isinstance(reduction, Reduction):
        if not isinstance(reduction, str) or reduction not in known:
            *names, last = map(repr, known)
            raise ValueError(f"Unknown reduction {reduction!r} {kind}. Choose {', '.join(names)} or {last}.")
        reduction = known[reduction]
    scores = reduction.score(attributions, 0)
    if not isinstance(scores, Tensor) or scores.shape != expected:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"A reduction {kind} must give scores of shape {tuple(expected)}, {type(reduction).__name__} gave {found}."
        )
    return scores


def pair_scores(attributions: Tensor | Sequence[Tensor], normalize: Normalize = None) -> Tensor:
    """Compute one score a token pair, summed over layers and heads: (query, key) or (batch, query, key)."""
    return _normalized(stack_layers(attributions).sum((0, -3)), normalize, (-2, -1))


def layer_scores(attributions: Tensor | Sequence[Tensor], normalize: Normalize = None) -> Tensor:
    """Compute one score a layer, F(A) - F(A0) up to the integration error: (layer,) or (layer, batch)."""
    return _normalized(stack_layers(attributions).sum((-3, -2, -1)), normalize, (0,))


def stack_layers(attributions: Tensor | Sequence[Tensor]) -> Tensor:
    """Return attributions as one tensor with the layers along dimension 0.

    Raises:
        ValueError: Layers have different shapes, or a tensor has another number of axes.
    """
    if not isinstance(attributions, Tensor):
        shapes = {tuple(layer.shape) for layer in attributions}
        if len(shapes) != 1:
            raise ValueError(f"Layers must have the same shape to be stacked, got {sorted(shapes)}.")
        attributions = torch.stack(list(attributions))
    if attributions.dim() not in (4, 5):
        raise ValueError(
            "Attributions must be (layer, head, query, key) or (layer, batch, head, query, key), got the shape "
            f"{tuple(attributions.shape)}. For one layer put [attributions] in a list."
        )
    return attributions


def only_reader(attributions: Tensor) -> int | None:
    """Return the only token with attributions as a query in the last layer of (layer, query, key); None for several.

    Tokens that the output does not read have none there.
    """
    rows = attributions[-1].ne(0).any(-1).nonzero().flatten().tolist()
    return rows[0] if len(rows) == 1 else None


def _normalized(scores: Tensor, normalize: Normalize, over: tuple[int, ...]) -> Tensor:
    if normalize is None:
        return scores
    if normalize == "max":
        size = scores.abs().amax(over, keepdim=True)
    elif normalize == "l1":
        size = scores.abs().sum(over, keepdim=True)
    elif normalize == "l2":
        size = scores.square().sum(over, keepdim=True).sqrt()
    else:
        raise ValueError(f"Unknown normalize {normalize!r}. Choose None, 'max', 'l1' or 'l2'.")
    return torch.where(size > 0, scores / size, 0)
