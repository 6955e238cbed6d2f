"""Panels: parts of a path, halved where its gradient is rough until their errors are small enough.

A panel has five points of the path, its ends among them. Its integral is that of the polynomial through them, and its
error is estimated by the difference from the polynomial through every other point:

    E = || sum_k (w_k - w'_k) f(alpha_k) ||,      f = (A - A0) * dF/dA,      w' = 0 for k = 1, 3

in the norm over the attributions of all pairs and layers of the path. When a panel is halved, its points are used again
and each half gets two more. Errors of different panels are taken as independent: their squares add up. Gaussian rules
reach a higher degree, but their points could not be used again in the halves. Smooth paths need no panels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.polynomial import legendre
from torch import Tensor

from captum_attattr.engine.reductions import Keep, norm
from captum_attattr.engine.walks import Course, Points, Walk

SIZE = 5
"""Number of points of a panel."""
ADDED = SIZE - 1
"""Number of points that halving a panel adds."""

# Fraction of the largest error for the panels that are not halved: the halves of the others need the rest.
_LEFT = 0.5
_TINY = 1e-30
_TOTALS_BYTES = 2**28


@dataclass
class Samples:
    """The points at which a walk was evaluated: R rows, each of an example at an alpha."""

    examples: Tensor
    alphas: Tensor
    points: Points

    @classmethod
    def empty(cls, walk: Walk) -> Samples:
        """Return samples without rows."""
        examples = torch.empty(0, dtype=torch.long, device="cpu")
        return cls(examples, torch.empty(0, dtype=torch.float64, device="cpu"), walk.no_points())

    def extended(self, walk: Walk, alphas: Tensor, examples: Tensor) -> Course[Samples]:
        """Ask for the points of the walk at these alphas and return the samples with these rows appended."""
        points = Points.from_parts([self.points, (yield from walk.points(alphas, examples))])
        return Samples(torch.cat([self.examples, examples]), torch.cat([self.alphas, alphas]), points)


@dataclass
class Panels:
    """P panels, of any of the examples."""

    rows: Tensor
    """(P, SIZE): the samples that are its points, in the order of their alphas."""
    errors: Tensor
    """(P,): the estimated error E."""
    gaps: Tensor
    """(P,): the change of F from one end to the other, minus the integral of dF/dalpha."""

    @classmethod
    def from_samples(cls, walk: Walk, samples: Samples, rows: Tensor) -> Panels:
        """Make the panels with these points and compute their errors and gaps."""
        alphas = samples.alphas[rows]
        weights = interpolatory(alphas)
        outputs, slopes = (values.double().cpu()[rows] for values in samples.points[:2])
        gaps = outputs[:, -1] - outputs[:, 0] - (weights * slopes).sum(1)
        coarse = torch.zeros_like(weights)
        coarse[:, ::2] = interpolatory(alphas[:, ::2])
        return cls(rows, norms(walk, samples, rows, weights - coarse), gaps)

    def examples(self, samples: Samples) -> Tensor:
        """Return the example of each panel, (P,)."""
        return samples.examples[self.rows[:, 0]]

    def select(self, chosen: Tensor) -> Panels:
        """Return some of the panels."""
        return Panels(self.rows[chosen], self.errors[chosen], self.gaps[chosen])

    def extended(self, others: Panels) -> Panels:
        """Return these panels and the others."""
        pairs = ((self.rows, others.rows), (self.errors, others.errors), (self.gaps, others.gaps))
        return Panels(*(torch.cat(pair) for pair in pairs))

    def halved(self, walk: Walk, samples: Samples) -> Course[tuple[Panels, Samples]]:
        """Return the halves of the panels, and the samples extended by their new points."""
        alphas, owners = samples.alphas[self.rows], self.examples(samples)
        middles = (alphas[:, 1:] + alphas[:, :-1]) / 2
        fine = torch.empty(len(self.rows), 2 * SIZE - 1, dtype=torch.long, device="cpu")
        fine[:, ::2] = self.rows
        fine[:, 1::2] = len(samples.alphas) + torch.arange(middles.numel(), device="cpu").view_as(middles)
        samples = yield from samples.extended(walk, middles.flatten(), owners.repeat_interleave(ADDED))
        return Panels.from_samples(walk, samples, torch.cat([fine[:, :SIZE], fine[:, ADDED:]])), samples

    def compact(self, samples: Samples) -> tuple[Panels, Samples]:
        """Return the same panels with only the samples that they use."""
        rows, places = self.rows.unique(return_inverse=True)
        found = Samples(samples.examples[rows], samples.alphas[rows], samples.points.select(rows))
        return Panels(places, self.errors, self.gaps), found

    def too_rough(self, error: float, gap: float) -> Tensor:
        """Return the panels to halve, the roughest first, so that the errors and gaps become small enough.

        Args:
            error: Largest error of all panels together.
            gap: Largest gap of all panels together.
        """
        errors, gaps = self.errors / max(error, _TINY), self.gaps / max(gap, _TINY)
        if float(errors.norm()) > 1:
            sizes = torch.maximum(errors, gaps.abs())
            order = sizes.argsort(descending=True)
            rest = (sizes[order] ** 2).flip(0).cumsum(0).flip(0).sqrt()
        elif float(gaps.sum().abs()) > 1:
            order = gaps.abs().argsort(descending=True)
            rest = gaps[order].abs().flip(0).cumsum(0).flip(0)
        else:
            return torch.empty(0, dtype=torch.long, device="cpu")
        return order[: max(1, int((rest > _LEFT).sum()))]

    def weights(self, samples: Samples) -> Tensor:
        """Return the weight of each sample, (R,), in the integral over all panels of its example."""
        weights = torch.zeros(len(samples.alphas), dtype=torch.float64, device="cpu")
        return weights.index_add_(0, self.rows.flatten(), interpolatory(samples.alphas[self.rows]).flatten())


def interpolatory(alphas: Tensor) -> Tensor:
    """Weights (P, n) that integrate the polynomials through n points, (P, n), from the first point to the last.

    Example:
        >>> import torch
        >>> from captum_attattr.engine.panels import interpolatory
        >>> interpolatory(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)).mul(6).round().tolist()  # Simpson's
        [[1.0, 4.0, 1.0]]
    """
    start, stop = alphas[:, :1], alphas[:, -1:]
    at = ((2 * alphas - start - stop) / (stop - start)).numpy()
    values = torch.from_numpy(legendre.legvander(at, at.shape[1] - 1))
    moments = torch.zeros_like(alphas)
    moments[:, :1] = stop - start
    weights: Tensor = torch.linalg.solve(values.transpose(1, 2), moments)
    return weights


def norms(walk: Walk, samples: Samples, rows: Tensor, weights: Tensor) -> Tensor:
    """Norms (P,) of the attributions that are the weighted sums of the gradients at the points of P rows.

    Args:
        walk: The path.
        samples: The points.
        rows: (P, n), which samples to sum, in each row of one example.
        weights: (P, n).
    """
    cell_bytes = rows.shape[1] * walk.totals(1).point_bytes
    found = []
    for cells in torch.arange(len(rows), device="cpu").split(max(1, _TOTALS_BYTES // max(cell_bytes, 1))):
        totals, some = walk.totals(len(cells)), rows[cells].flatten()
        places = torch.arange(len(cells), device="cpu").repeat_interleave(rows.shape[1])
        totals.add(samples.points.select(some), weights[cells].flatten(), places)
        attributions = totals.attributions(samples.examples[rows[cells, 0]], Keep((), True))
        found.append(norm(attributions))
    return torch.cat(found).double().cpu()
