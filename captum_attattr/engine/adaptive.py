"""Integrals to a tolerance: as many evaluations as each example's path asks for, where it asks for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from captum_attattr.engine.integration import Integral, Rise
from captum_attattr.engine.nested_rules import Rung, ladder
from captum_attattr.engine.panels import ADDED, SIZE, Panels, Samples
from captum_attattr.engine.reductions import Keep, norm
from captum_attattr.engine.walks import Walk

# Of the gaps on the parts of a path, from its start to each node, as much as this times the tolerance will do:
# they are wider than the error itself, and catch what cancels by chance in the gap of the whole.
_PARTIAL = 5.0
# Of the difference from a coarser rule as much as this times the tolerance: rules of high degree gain that much by a
# few nodes where the path is smooth. It catches what completeness cannot see, errors of pairs that cancel in the sum.
_COARSE = 12.0
# Where the gradient may jump they gain next to nothing: the difference is the error then.
_COARSE_KINKED = 1.0
# Panels that are left as they are may take this part of the error that is allowed: the halves of the others add theirs.
_LEFT = 0.5
_MOST_BYTES = 4 * 2**30


class Adaptation:
    """An integral to a tolerance; examples that have converged leave the batch.

    First come the rules of a :func:`ladder`, which suffice for smooth paths. By these an example has converged when the
    gap of completeness, |sum(Attr) - (F(A) - F(A0))|, is at most ``tolerance`` times the norm of its shares; the same
    gaps on the parts of the path, from A0 to each of the nodes, are at most five times that; and the shares by a
    coarser rule differ by at most twelve times the tolerance, or once where the graph of the output holds operations
    whose derivative jumps (ReLU, maxima). What has not converged goes on in :class:`Panels` until
    both the estimated error and the gap are at most ``tolerance`` times the norm.

    Args:
        walk: The path, or paths.
        tolerance: Relative error.
        n_steps: Evaluations at most, of each example.
        clean: F(A), (B,).
        keep: What to keep of the shares.
    """

    def __init__(self, walk: Walk, tolerance: float, n_steps: int, clean: Tensor, keep: Keep) -> None:
        self._walk, self._tolerance, self._n_steps, self._keep = walk, tolerance, n_steps, keep
        start = walk.start(torch.arange(walk.count))
        self._start, self._rise = start, Rise.of(walk, clean, start)
        self._answer: Integral | None = None

    def integral(self) -> Integral:
        """Of every example."""
        pending, rows, samples = self._climb()
        if len(pending):
            self._refine(pending, rows, samples)
        if self._answer is None:
            raise RuntimeError("a ladder has at least one rung")
        return self._answer

    def _climb(self) -> tuple[Tensor, Tensor, Samples]:
        """Rung by rung: the examples that did not converge, their samples (nodes, examples), and all samples."""
        rule, pending, samples = ladder(self._n_steps), torch.arange(self._walk.count), self._known()
        free = len(samples.alphas) // len(pending)
        rows = pending.unsqueeze(0)[:free]
        for rung in rule.rungs:
            nodes = rule.nodes[len(rows) : rung.count]
            new = len(samples.alphas) + torch.arange(len(nodes) * len(pending)).view(len(nodes), -1)
            rows = torch.cat([rows, new])
            samples = samples.and_also(self._walk, nodes.repeat_interleave(len(pending)), pending.repeat(len(nodes)))
            totals = self._summed(samples, rows, rung.weights)
            found = self._integral(totals, pending, torch.full((len(pending),), len(rows) - free))
            found.converged = self._judged(found, rung, samples, rows, pending)
            going_on = ~found.converged
            self._put(found, pending)
            pending, rows = pending[going_on], rows[:, going_on]
            if not len(pending):
                break
        return pending, rows, samples

    def _known(self) -> Samples:
        every, known = torch.arange(self._walk.count), self._walk.known()
        if known is None:
            return Samples.none(self._walk)
        return Samples(every, torch.ones(len(every), dtype=torch.float64), known)

    def _integral(self, totals: list[Tensor], pending: Tensor, spent: Tensor) -> Integral:
        return Integral.of(self._walk.shares(totals, pending, self._keep), spent, self._rise.of_some(pending))

    def _put(self, found: Integral, pending: Tensor) -> None:
        if self._answer is None:
            self._answer = replace(found)
        else:
            self._answer.replace(pending, found)

    def _judged(self, found: Integral, rung: Rung, samples: Samples, rows: Tensor, pending: Tensor) -> Tensor:
        """Whether the gap, and those on the parts of the path, are narrow enough."""
        outputs, slopes = (values[rows] for values in samples.points[:2])
        start = self._start[pending].to(outputs)
        rises = torch.cat([outputs - start, self._rise.change[pending].to(outputs).unsqueeze(0)])
        gaps = (rung.partial.to(slopes) @ slopes - rises).abs()
        allowed = found.allowed(self._tolerance)
        # On the CPU, where the numbers of rows and examples are.
        near = ((found.error <= allowed) & (gaps <= _PARTIAL * allowed).all(0)).cpu()
        if near.any():
            totals = self._summed(samples, rows[:, near], rung.weights - rung.coarse)
            apart = norm(self._walk.shares(totals, pending[near], Keep((), True))).cpu()
            coarse = _COARSE_KINKED if self._walk.is_kinked else _COARSE
            near[near.clone()] = apart <= coarse * allowed.cpu()[near]
        return near

    def _summed(self, samples: Samples, rows: Tensor, weights: Tensor) -> list[Tensor]:
        """Gradients at samples (nodes, examples) added up by weights (nodes,), a total an example."""
        nodes, examples = rows.shape
        totals = self._walk.totals(examples)
        cells = torch.arange(examples).repeat(nodes)
        self._walk.add(totals, samples.points.of(rows.flatten()), weights.repeat_interleave(examples), cells)
        return totals

    def _refine(self, pending: Tensor, rows: Tensor, samples: Samples) -> None:
        """Panel by panel, from the points of the ladder and the one at no attention."""
        spent = torch.full((self._walk.count,), len(rows) + int(self._walk.known() is None))
        if len(rows) < 2 * SIZE - 2 or self._n_steps < int(spent[0]):
            return
        order, zeros = samples.alphas[rows[:, 0]].argsort(), torch.zeros(len(pending), dtype=torch.float64)
        rows = torch.cat([len(samples.alphas) + torch.arange(len(pending)).unsqueeze(0), rows[order]]).T
        samples = samples.and_also(self._walk, zeros, pending)
        panels = Panels.measured(self._walk, samples, torch.cat([rows[:, :SIZE], rows[:, SIZE - 1 :]]))
        while True:
            panels, samples = panels.compact(samples)
            found = self._by_panels(panels, samples, pending, spent)
            chosen = self._chosen(panels, samples, pending, spent, found.allowed(self._tolerance))
            going_on = torch.isin(pending, panels.examples(samples)[chosen])
            self._put(found, pending)
            pending = pending[going_on]
            if not len(pending):
                break
            spent += ADDED * torch.bincount(panels.examples(samples)[chosen], minlength=len(spent))
            others = panels.of(~chosen & torch.isin(panels.examples(samples), pending))
            halves, samples = panels.of(chosen).halved(self._walk, samples)
            panels = others.and_also(halves)

    def _by_panels(self, panels: Panels, samples: Samples, pending: Tensor, spent: Tensor) -> Integral:
        totals = self._walk.totals(len(pending))
        cells = torch.searchsorted(pending, samples.examples)
        self._walk.add(totals, samples.points, panels.weights(samples), cells)
        found = self._integral(totals, pending, spent[pending])
        owners = torch.searchsorted(pending, panels.examples(samples))
        squares = torch.zeros(len(pending), dtype=torch.float64).index_add_(0, owners, panels.errors**2)
        found.error = torch.maximum(squares.sqrt().to(found.error), found.error)
        found.converged = (found.error <= found.allowed(self._tolerance)).cpu()
        return found

    def _chosen(self, panels: Panels, samples: Samples, pending: Tensor, spent: Tensor, allowed: Tensor) -> Tensor:
        """(P,): which panels to halve."""
        owners, chosen = panels.examples(samples), torch.zeros(len(panels.rows), dtype=torch.bool)
        full = samples.points.bytes > _MOST_BYTES
        for example, limit in zip(pending.tolist(), allowed.tolist(), strict=True):
            mine = (owners == example).nonzero().flatten()
            room = 0 if full else (self._n_steps - int(spent[example])) // ADDED
            chosen[mine[panels.of(mine).too_rough(limit, _LEFT * limit)[:room]]] = True
        return chosen
