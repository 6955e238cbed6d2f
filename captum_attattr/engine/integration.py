"""Integrals along a walk by one rule for all examples, and the convergence of any integral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from captum_attattr.engine.reductions import Keep, LayerAttributions, norm
from captum_attattr.engine.walks import Course, Points, Walk, Wanted
from captum_attattr.warned import warn

_TINY = 1e-30
_ROUNDING = 8.0
_WIDE = 0.05
"""Without a tolerance, a gap of more than this fraction of the norm gives a warning."""


@dataclass(frozen=True)
class Rise:
    """The rise of F, (B,), from A0 to A."""

    change: Tensor
    """F(A) - F(A0), in float32 at least."""
    noise: Tensor
    """Error of the change that may come from the precision in which F is computed."""
    rounding: float
    """Relative error of a gradient that may come from that precision."""

    @classmethod
    def from_outputs(cls, walk: Walk, clean: Tensor, start: Tensor) -> Rise:
        """Make it from F(A), ``clean``, and F(A0), ``start``."""
        dtypes = [dtype for dtype in (walk.paths[0].state.context.dtype, clean.dtype) if dtype.is_floating_point]
        rounding = _ROUNDING * max(torch.finfo(dtype).eps for dtype in dtypes)
        wide = torch.promote_types(clean.dtype, torch.float32)
        clean, start = clean.detach().to(wide), start.detach().to(wide)
        return cls(clean - start, rounding * torch.maximum(clean.abs(), start.abs()), rounding)

    def select(self, examples: Tensor) -> Rise:
        """Return the rise of some of the examples."""
        return Rise(self.change[examples], self.noise[examples], self.rounding)


@dataclass
class Integral:
    """The integral along one walk, of L layers (1, or all of a joint path) and B examples."""

    kept: list[list[Any]]
    """By layer and reduction: a tensor, or several."""
    sum: Tensor
    """(B,): sum of all attributions."""
    norm: Tensor
    """(B,): norm of all attributions."""
    evaluations: Tensor
    """(B,): number of forward and backward passes."""
    gap: Tensor
    """(B,): sum - (F(A) - F(A0))."""
    other_norm: Tensor
    """(B,): norm of the attributions by other weights, where such were given."""
    error: Tensor
    """(B,): estimated error of the attributions, in their norm; at least the size of the gap."""
    noise: Tensor
    """(B,): gap that rounding of F alone may cause."""
    converged: Tensor | None = None
    """(B,): whether the tolerance was reached."""

    @classmethod
    def from_attributions(cls, attributions: Sequence[LayerAttributions], evaluations: Tensor, rise: Rise) -> Integral:
        """Make it from the attributions of each layer."""
        total: Any = sum(layer.sum for layer in attributions)
        gap = total - rise.change.to(total)
        kept = [layer.kept for layer in attributions]
        other: Tensor = torch.stack([layer.other_norm for layer in attributions]).norm(dim=0)
        return cls(kept, total, norm(attributions), evaluations, gap, other, gap.abs(), rise.noise.to(total))

    def allowed_gap(self, tolerance: float) -> Tensor:
        """Return the gap of completeness, (B,), that a relative tolerance allows."""
        return tolerance * self.norm + self.noise

    def replace(self, examples: Tensor, found: Integral) -> None:
        """Replace the results of some of the examples."""
        for tensor, new in zip(tree_leaves(self.kept), tree_leaves(found.kept), strict=True):
            tensor[examples] = new
        for field in fields(self)[1:]:
            getattr(self, field.name)[examples] = getattr(found, field.name)


def integrate(walk: Walk, nodes: Tensor, weights: Tensor, keep: Keep, clean: Tensor) -> Course[Integral]:
    """Integrate by the same rule for every example; ``clean`` is F(A), (B,)."""
    every = torch.arange(walk.count, device="cpu")
    examples, totals = every.repeat(len(nodes)), walk.totals(walk.count)
    alphas, weights = (values.repeat_interleave(walk.count) for values in (nodes, weights))

    def add(rows: slice, points: Points) -> None:
        totals.add(points, weights[rows], examples[rows])

    yield Wanted(walk, alphas, examples, add)
    start = yield from walk.start(every)
    spent = torch.full((walk.count,), len(nodes), device="cpu")
    attributions = totals.attributions(every, keep)
    return Integral.from_attributions(attributions, spent, Rise.from_outputs(walk, clean, start))


@dataclass(frozen=True)
class Convergence:
    """The convergence of an attribution, for L layers (1 on the joint path) and B examples."""

    evaluations: Tensor
    """(L, B): forward and backward passes from the layer on, without the one of the whole model for all layers."""
    gap: Tensor
    """(L, B): |sum(Attr) - (F(A) - F(A0))| divided by the norm of Attr."""
    error: Tensor
    """(L, B): estimated error of Attr divided by its norm; on smooth paths, and with a fixed rule, the gap."""
    converged: Tensor | None
    """(L, B): whether the tolerance was reached; None without one."""
    complete: Tensor
    """(L, B): whether the gap is below 5% of the norm, apart from rounding."""

    @classmethod
    def from_integrals(cls, integrals: Sequence[Integral]) -> Convergence:
        """Make it from the integrals of all layers."""
        met = [integral.converged for integral in integrals if integral.converged is not None]
        return cls(
            torch.stack([integral.evaluations for integral in integrals]),
            torch.stack([i.gap.abs() / i.norm.clamp(min=_TINY) for i in integrals]),
            torch.stack([i.error / i.norm.clamp(min=_TINY) for i in integrals]),
            torch.stack(met) if met else None,
            torch.stack([i.gap.abs() <= i.allowed_gap(_WIDE) for i in integrals]),
        )

    def warn(self, names: Sequence[str], tolerance: float | None, n_steps: int) -> None:
        """Warn of the paths that did not reach the tolerance; without one, of those that are far from complete.

        Args:
            names: Names of the paths, L.
            tolerance, n_steps: As given to :meth:`SelfAttentionAttribution.attribute`.
        """
        short = ~(self.complete if self.converged is None else self.converged)
        if not short.any():
            return
        places = short.any(1).nonzero().flatten().tolist()
        worst = [f"{names[place]} {float(self.error[place][short[place]].max()):.1e}" for place in places]
        errors = ", ".join(worst[:6]) + (f" and {len(worst) - 6} more" if len(worst) > 6 else "")
        paths = f"{int(short.sum())} of {short.numel()} paths (an example in a layer each)"
        if tolerance is None:
            message = (
                f"{n_steps} steps of this rule were not enough for {paths}: the gap of completeness is wider than 5% "
                f"of the norm of the attributions ({errors}). Give tolerance=0.01, which takes as many evaluations as "
                "each path needs, or more steps."
            )
        else:
            message = (
                f"n_steps={n_steps} did not suffice for tolerance={tolerance} on {paths}: the estimated error divided "
                f"by the norm is {errors}. Give more steps; if fewer than n_steps were taken, the points did not fit "
                "memory: give fewer tokens, or fewer examples at a time."
            )
        warn(message)
