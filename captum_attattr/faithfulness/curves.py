"""The output while features are removed in the order of their scores: the curve that all measures are read from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from captum_attattr.arguments import check_count
from captum_attattr.faithfulness.removal import Removal, Scores

Order = Literal["most", "least"]

TENTHS = tuple(step / 10 for step in range(11))
"""Default fractions of features of a curve."""


@dataclass(frozen=True)
class DeletionCurve:
    """The output of B examples while features are removed, at P points.

    Attributes:
        fractions: (P,), fractions of the removable features that are removed; the first is 0.
        outputs: (B, P), F without these features; the first is that of the whole input.
    """

    fractions: Tensor
    outputs: Tensor

    @property
    def drops(self) -> Tensor:
        """The decrease of the output at each point, (B, P): F(x) - F(x without the removed features)."""
        return self.outputs[:, :1] - self.outputs

    def aopc(self) -> Tensor:
        r"""Area over the perturbation curve, (B,): the mean drop over the points.

        .. math:: \frac{1}{P} \sum_{k=0}^{P-1} F(x) - F(x^{(k)})

        with :math:`x^{(0)} = x` (Samek et al., Evaluating the visualization of what a deep neural network has learned,
        IEEE TNNLS 2017). Larger is better if the most important features are removed first.
        """
        return self.drops.mean(1)

    def area(self) -> Tensor:
        """Area under the curve, (B,): the mean output from the first fraction to the last, by trapezoids."""
        width = self.fractions[-1] - self.fractions[0]
        return torch.trapezoid(self.outputs, self.fractions.to(self.outputs), dim=1) / width.to(self.outputs)


def deletion_curve(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = TENTHS,
    *,
    order: Order = "most",
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> DeletionCurve:
    """Compute the output while more and more features are removed, in the order of their scores.

    At a fraction f of n removable features, ceil(f n) of them are removed. Features of equal score are removed in a
    random order, so that their position in the sentence has no influence.

    Args:
        removal: The features and how to remove them: :class:`TokenRemoval`, :class:`EdgeRemoval`, :class:`HeadRemoval`.
        scores: Scores from any method, in the shape that the removal needs.
        fractions: Fractions from 0 to 1 in ascending order; 0 is added if it is missing.
        order: "most", the largest score first, or "least", the smallest (most negative) first.
        batch_size: Maximum number of rows in one run of the model.
        seed: Seed of the order among equal scores.
        show_progress: Show a progress bar on standard error.

    Raises:
        ValueError: Fractions out of range or order, scores of another shape or with NaN, or nothing to remove.

    Example:
        >>> import torch
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.faithfulness import TokenRemoval, deletion_curve
        >>> model, tokenizer = load_demo()
        >>> batch = tokenizer("A warm film.", return_tensors="pt", return_special_tokens_mask=True)
        >>> special = batch["special_tokens_mask"]
        >>> removal = TokenRemoval(model, batch["input_ids"], target=1, special_tokens_mask=special)
        >>> deletion_curve(removal, torch.rand(1, 6), fractions=[0.5, 1]).outputs.shape
        torch.Size([1, 3])
    """
    if order not in ("most", "least"):
        raise ValueError(f"order {order!r} is unknown. Choose 'most' or 'least'.")
    later = [fraction for fraction in ascending(fractions) if fraction > 0]
    outputs = outputs_along(removal, scores, later, order, batch_size, seed, show_progress)
    return DeletionCurve(torch.tensor([0.0, *later], device="cpu"), outputs)


def ascending(fractions: Sequence[float]) -> list[float]:
    """Return fractions as a list and check that they ascend from 0 or more to at most 1.

    Raises:
        ValueError: They do not, or there are none.
    """
    steps = [float(fraction) for fraction in fractions]
    in_order = all(one < other for one, other in itertools.pairwise(steps))
    if not steps or not in_order or not (steps[0] >= 0 and steps[-1] <= 1):
        raise ValueError(f"fractions must ascend from 0 to at most 1, got {steps}.")
    return steps


def outputs_along(
    removal: Removal, scores: Scores, fractions: Sequence[float], order: Order, batch_size: int, seed: int,
    show_progress: bool, *, keep: bool = False,
) -> Tensor:  # fmt: skip
    """Compute F of the whole input, and then without each fraction of the features, (B, 1 + P).

    With ``keep`` only this fraction is left. Other arguments and errors are those of :func:`deletion_curve`.
    """
    check_count("batch_size", batch_size)
    gone = _gone(removal, [float(keep), *fractions], keep)
    ranks = _ranks(removal, scores, seed, descending=order == "most")
    examples = torch.arange(len(gone), device=gone.device).repeat_interleave(gone.shape[1])

    def kept(rows: Tensor) -> Tensor:
        return ranks[examples[rows]] >= gone.flatten()[rows, None]

    return removal.run_rows(kept, examples, batch_size, "Removing", show_progress).view(gone.shape)


def _gone(removal: Removal, fractions: Sequence[float], keep: bool) -> Tensor:
    """Compute the number of features of each example that are removed at each fraction, (B, fractions)."""
    totals = removal.removable.sum(1)
    if bool((totals == 0).any()):
        raise ValueError(f"Example {int((totals == 0).nonzero()[0])} has nothing that may be removed.")
    # Less a small number, so that ceil(0.1 * 30) is 3 in spite of rounding.
    counts = [[math.ceil(fraction * total - 1e-9) for fraction in fractions] for total in totals.tolist()]
    found = torch.tensor(counts, device=totals.device)
    return totals[:, None] - found if keep else found


def _ranks(removal: Removal, scores: Scores, seed: int, *, descending: bool) -> Tensor:
    """Compute the rank of each feature in the order of removal, (B, N); features that stay come last."""
    flat = removal.ranked_scores(scores)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(flat.shape[1], generator=generator, device="cpu").to(flat.device)
    stays = torch.full_like(flat, -math.inf if descending else math.inf)
    sortable = torch.where(removal.removable, flat, stays)[:, shuffled]
    by_score = torch.argsort(sortable, dim=1, descending=descending, stable=True)
    # A second, stable sort, so that features with infinite scores do not mix with those that stay.
    stays_last = (~removal.removable[:, shuffled]).gather(1, by_score).to(torch.uint8)
    last = torch.argsort(stays_last, dim=1, stable=True)
    order = shuffled[by_score.gather(1, last)]
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
