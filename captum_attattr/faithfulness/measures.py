"""Measures of faithfulness: the output while features are removed in the order of their scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_attattr.faithfulness.removal import Removal, Scores

Order = Literal["most", "least"]

FRACTIONS = (0.05, 0.1, 0.2, 0.5)
"""Default fractions of features for :func:`comprehensiveness`, :func:`sufficiency` and :func:`log_odds`."""

_CURVE = tuple(step / 10 for step in range(11))
# Maximum number of features, over all rows, that are prepared at a time: 64 MB.
_MOST_FEATURES = 2**26


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
    fractions: Sequence[float] = _CURVE,
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
    steps = _checked(fractions)
    steps = steps if steps[0] == 0 else [0.0, *steps]
    counts = _counts(removal, steps)
    ranks = _ranks(removal, scores, seed, descending=order == "most")
    return DeletionCurve(torch.tensor(steps), _outputs(removal, ranks, counts, batch_size, show_progress))


def deletion_gap(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = _CURVE,
    *,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> Tensor:
    """Compute the area between two curves, (batch,): the least important first, minus the most important first.

    Random scores give zero on average; with faithful scores the first curve stays high and the second falls. The unit
    is that of the output; arguments are as for :func:`deletion_curve`.
    """
    options = {"batch_size": batch_size, "seed": seed, "show_progress": show_progress}
    most = deletion_curve(removal, scores, fractions, order="most", **options)  # type: ignore[arg-type]
    least = deletion_curve(removal, scores, fractions, order="least", **options)  # type: ignore[arg-type]
    return least.area() - most.area()


def comprehensiveness(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = FRACTIONS,
    *,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> Tensor:
    r"""Compute the decrease of the output without the most important features, (batch, fraction); larger is better.

    .. math:: F(x) - F(x \setminus r_f)

    where :math:`r_f` are the ceil(f n) features with the largest scores (DeYoung et al., ERASER, ACL 2020, eq. 1). The
    mean over P fractions is their AOPC up to the factor P / (P + 1): they also count an empty rationale, with decrease
    0. Arguments are as for :func:`deletion_curve`.
    """
    return _curve(removal, scores, fractions, batch_size, seed, show_progress).drops[:, 1:]


def log_odds(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = FRACTIONS,
    *,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> Tensor:
    r"""Compute the change of the target's log-odds without the most important features, (batch, fraction).

    .. math:: \log\frac{F(x \setminus r_f)}{1 - F(x \setminus r_f)} - \log\frac{F(x)}{1 - F(x)}

    (Shrikumar et al., DeepLIFT, ICML 2017; here of the target against all else). Lower is better. Log-odds still change
    where probabilities near 0 or 1 hardly do. Probabilities are kept away from 0 and 1 by the precision of their data
    type. Arguments are as for :func:`deletion_curve`.

    Raises:
        ValueError: The outputs are no probabilities.
    """
    outputs = _curve(removal, scores, fractions, batch_size, seed, show_progress).outputs
    if bool((outputs < 0).any() or (outputs > 1).any()):
        raise ValueError(
            f"Log-odds need probabilities, got outputs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}. "
            "Let the forward function return logits.softmax(-1)."
        )
    odds = outputs.logit(eps=torch.finfo(outputs.dtype).eps)
    return (odds - odds[:, :1])[:, 1:]


def sufficiency(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = FRACTIONS,
    *,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> Tensor:
    r"""Compute the decrease of the output with only the most important features, (batch, fraction); lower is better.

    .. math:: F(x) - F(r_f)

    where :math:`r_f` are the ceil(f n) features with the largest scores, and those that cannot be removed (DeYoung et
    al., ERASER, ACL 2020, eq. 2). Arguments are as for :func:`deletion_curve`.
    """
    total = removal.removable.sum(1, keepdim=True)
    counts = torch.cat([torch.zeros_like(total), total - _counts(removal, _checked(fractions))], 1)
    ranks = _ranks(removal, scores, seed, descending=False)
    outputs = _outputs(removal, ranks, counts, batch_size, show_progress)
    return (outputs[:, :1] - outputs)[:, 1:]


def _curve(
    removal: Removal, scores: Scores, fractions: Sequence[float], batch_size: int, seed: int, show_progress: bool
) -> DeletionCurve:
    steps = [0.0, *_checked(fractions)]
    ranks = _ranks(removal, scores, seed, descending=True)
    outputs = _outputs(removal, ranks, _counts(removal, steps), batch_size, show_progress)
    return DeletionCurve(torch.tensor(steps), outputs)


def _checked(fractions: Sequence[float]) -> list[float]:
    steps = [float(fraction) for fraction in fractions]
    ascending = all(one < other for one, other in itertools.pairwise(steps))
    if not steps or not ascending or not (steps[0] >= 0 and steps[-1] <= 1):
        raise ValueError(f"fractions must ascend from 0 to at most 1, got {steps}.")
    return steps


def _counts(removal: Removal, fractions: Sequence[float]) -> Tensor:
    """Compute the number of features of each example at each fraction, (B, P)."""
    totals = removal.removable.sum(1)
    if bool((totals == 0).any()):
        raise ValueError(f"Example {int((totals == 0).nonzero()[0])} has nothing that may be removed.")
    # Less a small number, so that ceil(0.1 * 30) is 3 in spite of rounding.
    counts = [[math.ceil(fraction * total - 1e-9) for fraction in fractions] for total in totals.tolist()]
    return torch.tensor(counts, device=totals.device)


def _ranks(removal: Removal, scores: Scores, seed: int, *, descending: bool) -> Tensor:
    """Compute the rank of each feature in the order of removal, (B, N); features that stay come last."""
    flat = removal.ranked_scores(scores)
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    stays = torch.full_like(flat, -math.inf if descending else math.inf)
    sortable = torch.where(removal.removable, flat, stays)[:, shuffled]
    by_score = torch.argsort(sortable, dim=1, descending=descending, stable=True)
    # A second, stable sort, so that features with infinite scores do not mix with those that stay.
    stays_last = (~removal.removable[:, shuffled]).gather(1, by_score).to(torch.uint8)
    last = torch.argsort(stays_last, dim=1, stable=True)
    order = shuffled[by_score.gather(1, last)]
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _outputs(removal: Removal, ranks: Tensor, counts: Tensor, batch_size: int, show_progress: bool) -> Tensor:
    """Compute F without the first ``counts`` features, (B, P)."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
    examples = torch.arange(len(counts), device=counts.device).repeat_interleave(counts.shape[1])
    slab = max(batch_size, _MOST_FEATURES // ranks.shape[1])
    found = []
    with tqdm(total=counts.numel(), desc="Removing", unit="run", disable=not show_progress) as bar:
        for some, gone in zip(examples.split(slab), counts.flatten().split(slab), strict=True):
            kept = ranks[some] >= gone[:, None]
            found.append(removal.outputs(kept, some, batch_size, bar.update))
    return torch.cat(found).view(counts.shape)
