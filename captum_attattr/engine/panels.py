"""Panels: a path cut where its gradient is rough, each part halved until its own error is small enough.

A panel holds five points of the path, its ends among them. Its integral is that of the polynomial through them,
and its error is taken as the difference from the polynomial through every other one:

    E = || sum_k (w_k - w'_k) f(alpha_k) ||,      f = (A - A0) * dF/dA,      w' = 0 for k = 1, 3

in the norm of the shares, of all pairs and layers of the path. A halved panel keeps its points and adds two to each
half, so that no evaluation is made in vain. Errors of different panels are taken as independent: their squares add up.
Rules of Gauss's kind reach a higher degree, but their points do not serve the halves; smooth paths never come here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.polynomial import legendre
from torch import Tensor

from captum_attattr.engine.reductions import Keep, norm
from captum_attattr.engine.walks import Points, Walk

SIZE = 5
"""Points of a panel."""
ADDED = SIZE - 1
"""Points that halving it adds."""

_TOTALS_BYTES = 2**28


@dataclass
class Samples:
    """Where a walk was evaluated, and what was found: an example at an alpha in each of R rows."""

    examples: Tensor
    alphas: Tensor
    points: Points

    @classmethod
    def none(cls, walk: Walk) -> Samples:
        """No rows yet."""
        return cls(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64), walk.no_points())

    def and_also(self, walk: Walk, alphas: Tensor, examples: Tensor) -> Samples:
        """The same, with rows behind them where the walk is evaluated."""
        found = [self.points, *(points for _, points in walk.evaluate(alphas, examples))]
        return Samples(torch.cat([self.examples, examples]), torch.cat([self.alphas, alphas]), Points.joined(found))


@dataclass
class Panels:
    """P panels, of any of the examples."""

    rows: Tensor
    """(P, SIZE): which samples are its points, in the order of their alphas."""
    errors: Tensor
    """(P,): E."""
    gaps: Tensor
    """(P,): the change of F from one end to the other, less the integral of dF/dalpha."""

    @classmethod
    def measured(cls, walk: Walk, samples: Samples, rows: Tensor) -> Panels:
        """The panels with these points."""
        alphas = samples.alphas[rows]
        weights = interpolatory(alphas)
        outputs, slopes = (values.double().cpu()[rows] for values in samples.points[:2])
        gaps = outputs[:, -1] - outputs[:, 0] - (weights * slopes).sum(1)
        coarse = torch.zeros_like(weights)
        coarse[:, ::2] = interpolatory(alphas[:, ::2])
        return cls(rows, norms(walk, samples, rows, weights - coarse), gaps)

    def examples(self, samples: Samples) -> Tensor:
        """(P,): whose path each panel is a part of."""
        return samples.examples[self.rows[:, 0]]

    def of(self, chosen: Tensor) -> Panels:
        """Some of them."""
        return Panels(self.rows[chosen], self.errors[chosen], self.gaps[chosen])

    def and_also(self, others: Panels) -> Panels:
        """Both."""
        pairs = ((self.rows, others.rows), (self.errors, others.errors), (self.gaps, others.gaps))
        return Panels(*(torch.cat(pair) for pair in pairs))

    def halved(self, walk: Walk, samples: Samples) -> tuple[Panels, Samples]:
        """Their halves, and the samples with new points between those of each."""
        alphas, owners = samples.alphas[self.rows], self.examples(samples)
        middles = (alphas[:, 1:] + alphas[:, :-1]) / 2
        fine = torch.empty(len(self.rows), 2 * SIZE - 1, dtype=torch.long)
        fine[:, ::2], fine[:, 1::2] = self.rows, len(samples.alphas) + torch.arange(middles.numel()).view_as(middles)
        samples = samples.and_also(walk, middles.flatten(), owners.repeat_interleave(ADDED))
        return Panels.measured(walk, samples, torch.cat([fine[:, :SIZE], fine[:, ADDED:]])), samples

    def compact(self, samples: Samples) -> tuple[Panels, Samples]:
        """The same panels, and no samples but theirs."""
        rows, places = self.rows.unique(return_inverse=True)
        found = Samples(samples.examples[rows], samples.alphas[rows], samples.points.of(rows))
        return Panels(places, self.errors, self.gaps), found

    def too_rough(self, allowed: float, left: float) -> Tensor:
        """Those, the roughest first, that are to be halved for the error of all to become small enough.

        Args:
            allowed: Error, and gap, of all panels that are small enough.
            left: What those that are not named may have of it.
        """
        gaps = self.gaps.abs()
        if float(self.errors.norm()) > allowed:
            sizes = torch.maximum(self.errors, gaps)
            order = sizes.argsort(descending=True)
            rest = (sizes[order] ** 2).flip(0).cumsum(0).flip(0).sqrt()
        elif float(self.gaps.sum().abs()) > allowed:
            order = gaps.argsort(descending=True)
            rest = gaps[order].flip(0).cumsum(0).flip(0)
        else:
            return torch.empty(0, dtype=torch.long)
        return order[: max(1, int((rest > left).sum()))]

    def weights(self, samples: Samples) -> Tensor:
        """(R,): of each sample in the integral over all panels of its example."""
        weights = torch.zeros(len(samples.alphas), dtype=torch.float64)
        return weights.index_add_(0, self.rows.flatten(), interpolatory(samples.alphas[self.rows]).flatten())


def interpolatory(alphas: Tensor) -> Tensor:
    """Weights (P, n) of the integrals of the polynomials through n points, (P, n), from the first to the last one.

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
    return torch.linalg.solve(values.transpose(1, 2), moments)


def norms(walk: Walk, samples: Samples, rows: Tensor, weights: Tensor) -> Tensor:
    """(P,): of the shares that the weighted points, (P, n) each, of one example come to."""
    per_cell = sum(total.nbytes for total in walk.totals(1))
    found = []
    for cells in torch.arange(len(rows)).split(max(1, _TOTALS_BYTES // max(per_cell, 1))):
        totals, some = walk.totals(len(cells)), rows[cells].flatten()
        places = torch.arange(len(cells)).repeat_interleave(rows.shape[1])
        walk.add(totals, samples.points.of(some), weights[cells].flatten(), places)
        shares = walk.shares(totals, samples.examples[rows[cells, 0]], Keep((), True))
        found.append(norm(shares))
    return torch.cat(found).double().cpu()
