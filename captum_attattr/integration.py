"""Integrals along a walk: by one rule for all, or by as many evaluations as each example asks for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_attattr.ladder import Rung, ladder
from captum_attattr.reductions import Keep, Shares
from captum_attattr.walks import JointWalk, LayerWalk, Values

# Of the gaps on the parts of a path, from its start to each node, as much as this times the tolerance will do:
# they are wider than the error itself, and catch what cancels by chance in the gap of the whole.
_PARTIAL = 5.0
_ROUNDING = 8.0
_TINY = 1e-30

Walk = LayerWalk | JointWalk


@dataclass
class Integral:
    """What one walk came to. Layers L (1, or all of a joint path), examples B."""

    kept: list[list[list[Tensor]]]
    """By layer and reduction: its tensors."""
    sum: Tensor
    """(B,): of all shares."""
    norm: Tensor
    """(B,): of all shares."""
    evaluations: Tensor
    """(B,): forward and backward passes."""
    gap: Tensor | None = None
    """(B,): sum - (F(A) - F(A0)), where F(A0) was asked for."""
    converged: Tensor | None = None
    """(B,): whether the tolerance was kept."""


def integrate(walk: Walk, nodes: Tensor, weights: Tensor, keep: Keep) -> Integral:
    """The same rule for every example."""
    examples = torch.arange(walk.paths[0].state.shape[0])
    totals = walk.totals(1, len(examples))
    walk.add(nodes, weights.unsqueeze(0), examples, totals)
    shares = walk.shares([total[0] for total in totals], examples, keep)
    spent = torch.full((len(examples),), walk.cost(nodes))
    return Integral([layer.kept for layer in shares], _sum(shares), _norm(shares), spent)


def integrate_to_tolerance(
    walk: Walk,
    tolerance: float,
    n_steps: int,
    clean: Tensor,
    keep: Keep,
    spared: Callable[[int], object],
) -> Integral:
    """As many evaluations as each example's own error asks for; what has converged leaves the batch.

    An example has converged when the gap of completeness, |sum(Attr) - (F(A) - F(A0))|, is at most ``tolerance``
    times the norm of its shares, and the same gaps on the parts of the path, from A0 to each of the nodes, are
    at most five times that.

    Args:
        walk: The path, or paths.
        tolerance: Relative error.
        n_steps: Evaluations at most.
        clean: F(A), (B,).
        keep: What to keep of the shares.
        spared: Called with the number of evaluations that were not needed.
    """
    pending = torch.arange(walk.paths[0].state.shape[0])
    start = walk.start(pending)
    rounding = _ROUNDING * _precision(walk, clean) * torch.maximum(clean.abs(), start.abs())
    answer: Integral | None = None
    for chain in ladder(n_steps):
        totals, used = walk.totals(len(chain.rungs), len(pending)), 0
        weights = _stacked(chain.rungs, len(chain.nodes))
        values: Values | None = None
        for place, rung in enumerate(chain.rungs):
            nodes = chain.nodes[used : rung.count]
            new = walk.add(nodes, weights[place:, used : rung.count], pending, [total[place:] for total in totals])
            values = new if values is None else Values(*map(torch.cat, zip(values, new, strict=True)))
            used = rung.count
            shares = walk.shares([total[place] for total in totals], pending, keep)
            found = Integral([layer.kept for layer in shares], _sum(shares), _norm(shares), torch.empty(0))
            found.evaluations = torch.full((len(pending),), walk.cost(nodes))
            _judge(found, rung, values, start[pending], clean[pending], tolerance, rounding[pending])
            answer = _merged(answer, found, pending)
            going_on = ~found.converged  # type: ignore[operator]
            spared(int((n_steps - answer.evaluations[pending[~going_on]]).sum()))
            pending, totals = pending[going_on], [total[:, going_on] for total in totals]
            values = Values(*(value[:, going_on] for value in values))
            if not len(pending):
                return answer
    return answer  # type: ignore[return-value]  # a ladder has at least one rung


def _judge(
    found: Integral, rung: Rung, values: Values, start: Tensor, clean: Tensor, tolerance: float, rounding: Tensor
) -> None:
    """Fill in the gap, and whether it and those on the parts of the path are narrow enough."""
    outputs = torch.cat([values.outputs, clean.to(values.outputs).unsqueeze(0)])
    partial = rung.partial.to(values.slopes) @ values.slopes
    gaps = (partial - (outputs - start.to(outputs))).abs()
    allowed = tolerance * found.norm + rounding.to(found.norm)
    found.gap = gap(found.sum, clean, start)
    found.converged = (found.gap.abs() <= allowed) & (gaps <= _PARTIAL * allowed).all(0)


def _merged(answer: Integral | None, found: Integral, examples: Tensor) -> Integral:
    """What was found for some of the examples put in place of what was there before."""
    if answer is None:
        return found
    for layer, new_layer in zip(answer.kept, found.kept, strict=True):
        for tensors, new_tensors in zip(layer, new_layer, strict=True):
            for tensor, new in zip(tensors, new_tensors, strict=True):
                tensor[examples] = new
    for name in ("sum", "norm", "gap", "converged"):
        getattr(answer, name)[examples] = getattr(found, name)
    answer.evaluations[examples] += found.evaluations
    return answer


@dataclass(frozen=True)
class Convergence:
    """How far an attribution went. L layers (1 on the joint path), B examples."""

    evaluations: Tensor
    """(L, B): forward and backward passes from the layer on, besides one of the whole model for all layers."""
    gap: Tensor | None
    """(L, B): |sum(Attr) - (F(A) - F(A0))| over the norm of Attr, where F(A0) was computed."""
    converged: Tensor | None
    """(L, B): whether the tolerance was kept; None without one."""

    @classmethod
    def of(cls, integrals: Sequence[Integral]) -> Convergence:
        """From the integrals of all layers."""
        gaps = [i.gap.abs() / i.norm.clamp(min=_TINY) for i in integrals if i.gap is not None]
        met = [integral.converged for integral in integrals if integral.converged is not None]
        evaluations = torch.stack([integral.evaluations for integral in integrals])
        return cls(evaluations, torch.stack(gaps) if gaps else None, torch.stack(met) if met else None)


def fill_gaps(walks: Sequence[Walk], integrals: Sequence[Integral], clean: Tensor) -> None:
    """Compute the gaps of completeness that are not known yet."""
    for walk, integral in zip(walks, integrals, strict=True):
        if integral.gap is None:
            integral.gap = gap(integral.sum, clean, walk.start(torch.arange(len(clean))))


def gap(total: Tensor, clean: Tensor, start: Tensor) -> Tensor:
    """sum(Attr) - (F(A) - F(A0)), each (B,)."""
    return total - (clean.to(total) - start.to(total))


def warn_where_unfinished(integrals: Sequence[Integral], tolerance: float, n_steps: int) -> None:
    """Say how many paths did not come within the tolerance."""
    short = [~integral.converged for integral in integrals if integral.converged is not None]
    count = sum(int(one.sum()) for one in short)
    if count:
        widest = max(float((i.gap.abs() / i.norm.clamp(min=_TINY)).max()) for i in integrals if i.gap is not None)
        warnings.warn(
            f"n_steps={n_steps} did not suffice for tolerance={tolerance} on {count} of {sum(map(len, short))} paths "
            f"(an example in a layer each): the widest gap is {widest:.1e} of the norm. Give more steps.",
            stacklevel=3,
        )


def _stacked(rungs: Sequence[Rung], nodes: int) -> Tensor:
    """Weights of all rungs (rungs, nodes): 0 for nodes that come later."""
    return torch.stack([torch.nn.functional.pad(rung.weights, (0, nodes - rung.count)) for rung in rungs])


def _precision(walk: Walk, output: Tensor) -> float:
    """The rounding that a difference of outputs carries."""
    dtypes = (walk.paths[0].state.context.dtype, output.dtype)
    return max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)


def _sum(shares: Sequence[Shares]) -> Tensor:
    total: Any = sum(layer.sum for layer in shares)
    return total


def _norm(shares: Sequence[Shares]) -> Tensor:
    return torch.stack([layer.norm for layer in shares]).norm(dim=0)
