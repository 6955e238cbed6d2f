"""Measures of faithfulness: numbers read from the curve of the output while features are removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_attattr.faithfulness.curves import TENTHS, ascending, deletion_curve, outputs_along
from captum_attattr.faithfulness.removal import Removal, Scores

FRACTIONS = (0.05, 0.1, 0.2, 0.5)
"""Default fractions of features for :func:`comprehensiveness`, :func:`sufficiency` and :func:`log_odds`."""


def deletion_gap(
    removal: Removal,
    scores: Scores,
    fractions: Sequence[float] = TENTHS,
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
    outputs = outputs_along(removal, scores, ascending(fractions), "most", batch_size, seed, show_progress)
    return outputs[:, :1] - outputs[:, 1:]


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
    outputs = outputs_along(removal, scores, ascending(fractions), "most", batch_size, seed, show_progress)
    if bool((outputs < 0).any() or (outputs > 1).any()):
        raise ValueError(
            f"Log-odds need probabilities, got outputs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}. "
            "Let the forward function return logits.softmax(-1)."
        )
    odds = outputs.logit(eps=torch.finfo(outputs.dtype).eps)
    return odds[:, 1:] - odds[:, :1]


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
    outputs = outputs_along(removal, scores, ascending(fractions), "least", batch_size, seed, show_progress, keep=True)
    return outputs[:, :1] - outputs[:, 1:]
