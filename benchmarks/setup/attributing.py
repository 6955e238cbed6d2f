"""Attributions to a tolerance, with how far they converged."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from captum_attattr import SelfAttentionAttribution
from captum_attattr.engine.integration import Convergence


def attributed(
    method: SelfAttentionAttribution, ids: Tensor, tolerance: float, **options: Any
) -> tuple[list[Tensor], Convergence, Tensor]:
    """Attributions of the method's layers, their convergence, and (layer, example) whether they converged.

    There is no warning: what did not converge is counted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = method.attribute(ids, tolerance=tolerance, **options)
    reached = method.convergence
    if reached is None or reached.converged is None:
        raise RuntimeError("An attribution to a tolerance says whether it converged.")
    return found, reached, reached.converged
