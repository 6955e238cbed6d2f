"""Integrals to a tolerance: each example takes as many evaluations as its path needs, where it needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from captum_attattr.engine.integration import Integral, Rise
from captum_attattr.engine.nested_rules import Rule, nested_rules
from captum_attattr.engine.panels import ADDED, SIZE, Panels, Samples
from captum_attattr.engine.reductions import Keep
from captum_attattr.engine.walks import Course, Totals, Walk

# The gaps on the parts of a path, from its start to each node, may be this many times the tolerance: they are larger
# than the error itself. They reveal errors that cancel by chance in the gap of the whole path.
_PARTIAL = 5.0
# The difference from a coarser rule may be this many times the tolerance: on smooth paths a few more nodes reduce the
# error that much. It reveals errors of single pairs that cancel in the sum, which completeness cannot show.
_COARSE = 12.0
# Where the gradient may jump, more nodes hardly reduce the error, so the difference is an estimate of it.
_COARSE_KINKED = 1.0
_MOST_BYTES = 4 * 2**30


class Adaptation:
    """An integral to a tolerance; examples that have converged leave the batch.

    The :func:`nested_rules` come first and suffice for smooth paths. With them an example has converged when

    * the gap of completeness, |sum(Attr) - (F(A) - F(A0))|, is at most ``tolerance`` times the norm of Attr,
    * the same gaps on the parts of the path, from A0 to each of the nodes, are at most five times that, and
    * the attributions by a coarser rule differ by at most twelve times the tolerance, or by at most the tolerance where
      the graph of the output holds operations whose derivative jumps (ReLU, maxima).

    The other examples go on in :class:`Panels` until both the estimated error and the gap are at most ``tolerance``
    times the norm. The rounding of F is added to what a gap may be, not to an error.

    Args:
        walk: The path, or paths.
        tolerance: Relative error.
        n_steps: Maximum number of evaluations of each example.
        clean: F(A), (B,).
        keep: What to keep of the attributions.
        share: Gives the part of the memory for points that it may use now.
    """

    def __init__(
        self,
        walk: Walk,
        tolerance: float,
        n_steps: int,
        clean: Tensor,
        keep: Keep,
        share: Callable[[], float],
    ) -> None:
        self._walk, self._tolerance, self._n_steps, self._keep = walk, tolerance, n_steps, keep
        self._clean, self._share = clean, share
        self._answer: Integral | None = None

    def integral(self) -> Course[Integral]:
        """Compute the integral of every example."""
        self._start = yield from self._walk.start(torch.arange(self._walk.count, device="cpu"))
        self._rise = Rise.from_outputs(self._walk, self._clean, self._start)
        pending, rows, samples = yield from self._apply_rules()
        if self._answer is None:
            raise RuntimeError("nested_rules gave no rule")
        if len(pending):
            yield from self._refine(pending, rows, samples, self._answer)
        return self._answer

    def _apply_rules(self) -> Course[tuple[Tensor, Tensor, Samples]]:
        """Apply the nested rules, one after the other.

        Returns:
            The examples that did not converge, the rows of their samples (nodes, examples), and all samples.
        """
        nested, samples = nested_rules(self._n_steps), Samples.empty(self._walk)
        pending = torch.arange(self._walk.count, device="cpu")
        rows = pending.unsqueeze(0)[:0]
        for rule in nested.rules:
            nodes = nested.nodes[len(rows) : rule.count]
            new = len(samples.alphas) + torch.arange(len(nodes) * len(pending), device="cpu").view(len(nodes), -1)
            rows = torch.cat([rows, new])
            alphas, examples = nodes.repeat_interleave(len(pending)), pending.repeat(len(nodes))
            samples = yield from samples.extended(self._walk, alphas, examples)
            totals = self._summed(samples, rows, rule.weights)
            spent = torch.full((len(pending),), len(rows) - self._free, device="cpu")
            coarse = self._summed(samples, rows, rule.weights - rule.coarse)
            found = self._integral(totals, pending, spent, coarse)
            found.converged = self._judged(found, rule, samples, rows, pending)
            going_on = ~found.converged
            self._put(found, pending)
            pending, rows = pending[going_on], rows[:, going_on]
            if not len(pending):
                break
        return pending, rows, samples

    @property
    def _free(self) -> int:
        """Number of points of an example that cost nothing."""
        return int(self._walk.end_is_known)

    def _integral(self, totals: Totals, pending: Tensor, spent: Tensor, coarse: Totals | None = None) -> Integral:
        attributions = totals.attributions(pending, self._keep, coarse)
        return Integral.from_attributions(attributions, spent, self._rise.select(pending))

    def _put(self, found: Integral, pending: Tensor) -> None:
        if self._answer is None:
            self._answer = replace(found)
        else:
            self._answer.replace(pending, found)

    def _judged(self, found: Integral, rule: Rule, samples: Samples, rows: Tensor, pending: Tensor) -> Tensor:
        """Whether each example has converged: the three conditions of the class."""
        outputs, slopes = (values[rows] for values in samples.points[:2])
        start = self._start[pending].to(outputs)
        rises = torch.cat([outputs - start, self._rise.change[pending].to(outputs).unsqueeze(0)])
        gaps = (rule.partial.to(slopes) @ slopes - rises).abs()
        allowed = found.allowed_gap(self._tolerance)
        coarse = _COARSE_KINKED if self._walk.is_kinked else _COARSE
        near = found.other_norm <= self._allowed_error(found, coarse)
        # On the CPU, where the indices of rows and examples are.
        return (near & (found.error <= allowed) & (gaps <= _PARTIAL * allowed).all(0)).cpu()

    def _allowed_error(self, found: Integral, times: float = 1.0) -> Tensor:
        """Return the allowed error of integration, (B,): rounding of F excuses gaps only, gradients have their own."""
        return max(times * self._tolerance, self._rise.rounding) * found.norm

    def _summed(self, samples: Samples, rows: Tensor, weights: Tensor) -> Totals:
        """Sum the gradients at samples (nodes, examples) with weights (nodes,): one total an example."""
        nodes, examples = rows.shape
        totals = self._walk.totals(examples)
        cells = torch.arange(examples, device="cpu").repeat(nodes)
        totals.add(samples.points.select(rows.flatten()), weights.repeat_interleave(examples), cells)
        return totals

    def _refine(self, pending: Tensor, rows: Tensor, samples: Samples, answer: Integral) -> Course[None]:
        """Integrate in panels, which begin with the points of the nested rules and the point alpha = 0.

        Attributions are computed where the panels suffice; until then the norm is that of those computed last.
        """
        spent = torch.full((self._walk.count,), len(rows) + 1 - self._free, device="cpu")
        if len(rows) < 2 * SIZE - 2 or self._n_steps < int(spent[0]):
            return
        order = samples.alphas[rows[:, 0]].argsort()
        zeros = torch.zeros(len(pending), dtype=torch.float64, device="cpu")
        rows = torch.cat([len(samples.alphas) + torch.arange(len(pending), device="cpu").unsqueeze(0), rows[order]]).T
        samples = yield from samples.extended(self._walk, zeros, pending)
        panels = Panels.from_samples(self._walk, samples, torch.cat([rows[:, :SIZE], rows[:, SIZE - 1 :]]))
        while len(pending):
            panels, samples = panels.compact(samples)
            chosen = self._chosen(panels, samples, answer, pending, spent)
            suffice = pending[~torch.isin(pending, panels.examples(samples)[chosen])]
            if len(suffice):
                answer.replace(suffice, self._integral_of_panels(panels, samples, suffice, spent))
                chosen = self._chosen(panels, samples, answer, pending, spent)
            pending = pending[torch.isin(pending, panels.examples(samples)[chosen])]
            spent += ADDED * torch.bincount(panels.examples(samples)[chosen], minlength=len(spent))
            others = panels.select(~chosen & torch.isin(panels.examples(samples), pending))
            if len(pending):
                halves, samples = yield from panels.select(chosen).halved(self._walk, samples)
                panels = others.extended(halves)

    def _integral_of_panels(self, panels: Panels, samples: Samples, examples: Tensor, spent: Tensor) -> Integral:
        panels, samples = panels.select(torch.isin(panels.examples(samples), examples)).compact(samples)
        totals = self._walk.totals(len(examples))
        totals.add(samples.points, panels.weights(samples), torch.searchsorted(examples, samples.examples))
        found = self._integral(totals, examples, spent[examples])
        owners = torch.searchsorted(examples, panels.examples(samples))
        squares = torch.zeros(len(examples), dtype=torch.float64, device="cpu").index_add_(0, owners, panels.errors**2)
        error, gap = squares.sqrt().to(found.error), found.error
        converged = (error <= self._allowed_error(found)) & (gap <= found.allowed_gap(self._tolerance))
        found.error, found.converged = torch.maximum(error, gap), converged.cpu()
        return found

    def _chosen(self, panels: Panels, samples: Samples, answer: Integral, pending: Tensor, spent: Tensor) -> Tensor:
        """(P,): whether each panel is to be halved."""
        owners, chosen = panels.examples(samples), torch.zeros(len(panels.rows), dtype=torch.bool, device="cpu")
        full = samples.points.bytes > self._share() * _MOST_BYTES
        limits = (self._allowed_error(answer), answer.allowed_gap(self._tolerance))
        errors, gaps = (limit[pending.to(limit.device)].tolist() for limit in limits)
        for example, error, gap in zip(pending.tolist(), errors, gaps, strict=True):
            mine = (owners == example).nonzero().flatten()
            room = 0 if full else (self._n_steps - int(spent[example])) // ADDED
            chosen[mine[panels.select(mine).too_rough(error, gap)[:room]]] = True
        return chosen
