"""The effect of removing single features, one at a time, and its correlation with scores."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from captum_attattr.arguments import check_count
from captum_attattr.faithfulness.removal import Removal, Scores

Agreement = Literal["spearman", "pearson"]


def leave_one_out(
    removal: Removal, sample: int | None = None, *, batch_size: int = 64, seed: int = 0, show_progress: bool = False
) -> Any:
    r"""Compute the decrease of the output without one feature, for each feature: exact, with one run a feature.

    .. math:: F(x) - F(x \setminus \{i\})

    Args:
        removal: The features and how to remove them.
        sample: Number of features of each example, chosen at random; None for all. Useful for edges, which are many.
        batch_size: Maximum number of rows in one run of the model.
        seed: Seed of the choice.
        show_progress: Show a progress bar on standard error.

    Returns:
        The effects in the shape of the removal's scores; NaN for features that may not be removed or were not chosen.

    Raises:
        ValueError: ``sample`` or ``batch_size`` is not a whole number of at least 1.
    """
    check_count("sample", sample, or_none=True)
    check_count("batch_size", batch_size)
    batch, features = removal.removable.shape
    everything = torch.arange(batch, device=removal.removable.device)
    clean = removal.outputs(torch.ones_like(removal.removable), everything, batch_size)
    examples, places = _chosen(removal.removable, sample, seed).nonzero().unbind(1)
    every = torch.arange(features, device=places.device)
    outputs = removal.run_rows(
        lambda rows: every != places[rows, None], examples, batch_size, "Leaving one out", show_progress
    )
    effects = torch.full((batch, features), math.nan, dtype=clean.dtype, device=clean.device)
    effects[examples, places] = clean[examples] - outputs
    return removal.unflatten(effects)


def agreement(removal: Removal, scores: Scores, effects: Scores, kind: Agreement = "spearman") -> Tensor:
    """Compute the correlation between scores and effects over an example's features, (batch,).

    Args:
        removal: The removal with which the effects were measured.
        scores: Scores from any method, in the removal's shape.
        effects: From :func:`leave_one_out`; features with the effect NaN are left out.
        kind: "spearman", of the ranks (ties share their mean rank), or "pearson".

    Returns:
        From -1 to 1; NaN if all scores, or all effects, of an example are equal.

    Example:
        >>> from captum_attattr import SelfAttentionAttribution, attention_layers, head_scores
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.faithfulness import HeadRemoval, agreement, leave_one_out
        >>> model, tokenizer = load_demo()
        >>> ids, layers = tokenizer("A warm, funny film.", return_tensors="pt")["input_ids"], attention_layers(model)
        >>> attributions = SelfAttentionAttribution(model, layers).attribute(ids, target=1)
        >>> removal = HeadRemoval(model, layers, ids, target=1)
        >>> bool(agreement(removal, head_scores(attributions), leave_one_out(removal)) > 0.5)
        True
    """
    if kind not in ("spearman", "pearson"):
        raise ValueError(f"kind {kind!r} is unknown. Choose 'spearman' or 'pearson'.")
    flat, true = removal.ranked_scores(scores), removal.flatten(effects)
    found = []
    for example in range(len(true)):
        known = ~torch.isnan(true[example])
        one, other = flat[example, known].double(), true[example, known].double()
        found.append(
            _correlation(_mean_ranks(one), _mean_ranks(other)) if kind == "spearman" else _correlation(one, other)
        )
    return torch.stack(found)


def _chosen(removable: Tensor, sample: int | None, seed: int) -> Tensor:
    if sample is None:
        return removable
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(removable.shape, generator=generator, device="cpu").to(removable.device)
    noise = noise.masked_fill(~removable, math.inf)
    first = noise.topk(min(sample, removable.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(removable).scatter_(1, first, True) & removable


def _mean_ranks(values: Tensor) -> Tensor:
    _, number, times = values.unique(return_inverse=True, return_counts=True)
    last: Tensor = times.cumsum(0).to(values)
    ranks: Tensor = last - (times.to(values) - 1) / 2
    return ranks[number]


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(), other - other.mean()
    size = one.norm() * other.norm()
    return torch.where(size > 0, (one @ other) / size, math.nan)
