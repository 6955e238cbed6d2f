"""Predicted classes, attributions to a tolerance with how far they converged, and errors against a reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attattr import SelfAttentionAttribution
from captum_attattr.engine.integration import Convergence
from captum_attattr.text.classifier import Batch, Classifier


def predicted(classifier: Classifier, batch: Batch) -> list[int]:
    """The class of each text."""
    with torch.no_grad():
        classes: list[int] = classifier.outputs(*batch.inputs).argmax(-1).tolist()
    return classes


def attributed(
    method: SelfAttentionAttribution[list[Tensor]], ids: Tensor, tolerance: float, **options: Any
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


def summary(method: SelfAttentionAttribution[Any]) -> dict[str, float]:
    """Mean evaluations of a path, and the largest gap of completeness, of the method's last attribution."""
    reached = method.convergence
    if reached is None:
        raise RuntimeError("The method has not attributed anything yet.")
    return {"evaluations": float(reached.evaluations.double().mean()), "gap": float(reached.gap.max())}


def relative_errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """(layer, example), in the L2 norm."""
    pairs = [(one.to(other).flatten(1), other.flatten(1)) for one, other in zip(found, exact, strict=True)]
    return torch.stack([(one - other).norm(dim=1) / other.norm(dim=1) for one, other in pairs])
