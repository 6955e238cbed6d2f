"""Integrals along a walk by one rule for all examples, and how far any integral went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from captum_attattr.engine.reductions import Keep, Shares, norm
from captum_attattr.engine.walks import Walk
from captum_attattr.engine.warned import warn

_TINY = 1e-30
_ROUNDING = 8.0
_WIDE = 0.05
"""A gap wider than this part of the norm is spoken of where no tolerance was asked for."""


@dataclass(frozen=True)
class Rise:
    """How far F, (B,), rises from A0 to A."""

    change: Tensor
    """F(A) - F(A0), in float32 at least."""
    noise: Tensor
    """What it may be off by because of the digits that F is computed in."""

    @classmethod
    def of(cls, walk: Walk, clean: Tensor, start: Tensor) -> Rise:
        """From F(A) and F(A0)."""
        dtypes = [dtype for dtype in (walk.paths[0].state.context.dtype, clean.dtype) if dtype.is_floating_point]
        digits = max(torch.finfo(dtype).eps for dtype in dtypes)
        wide = torch.promote_types(clean.dtype, torch.float32)
        clean, start = clean.detach().to(wide), start.detach().to(wide)
        return cls(clean - start, _ROUNDING * digits * torch.maximum(clean.abs(), start.abs()))

    def of_some(self, examples: Tensor) -> Rise:
        """Of some of the examples."""
        return Rise(self.change[examples], self.noise[examples])


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
    gap: Tensor
    """(B,): sum - (F(A) - F(A0))."""
    error: Tensor
    """(B,): the error of the shares, in their norm, as far as it is known: the size of the gap at least."""
    noise: Tensor
    """(B,): what rounding alone may leave of it."""
    converged: Tensor | None = None
    """(B,): whether the tolerance was kept."""

    @classmethod
    def of(cls, shares: Sequence[Shares], evaluations: Tensor, rise: Rise) -> Integral:
        """From the shares of each layer."""
        total: Any = sum(layer.sum for layer in shares)
        gap = total - rise.change.to(total)
        kept = [layer.kept for layer in shares]
        return cls(kept, total, norm(shares), evaluations, gap, gap.abs(), rise.noise.to(total))

    def allowed(self, tolerance: float) -> Tensor:
        """(B,): error that a relative tolerance leaves room for."""
        return tolerance * self.norm + self.noise

    def replace(self, examples: Tensor, found: Integral) -> None:
        """Put in place what was found for some of the examples."""
        for layer, new_layer in zip(self.kept, found.kept, strict=True):
            for tensors, new_tensors in zip(layer, new_layer, strict=True):
                for tensor, new in zip(tensors, new_tensors, strict=True):
                    tensor[examples] = new
        for field in fields(self)[1:]:
            getattr(self, field.name)[examples] = getattr(found, field.name)


def integrate(walk: Walk, nodes: Tensor, weights: Tensor, keep: Keep, clean: Tensor) -> Integral:
    """The same rule for every example; ``clean`` is F(A), (B,)."""
    every = torch.arange(walk.count)
    examples, totals = every.repeat(len(nodes)), walk.totals(walk.count)
    alphas, weights = (values.repeat_interleave(walk.count) for values in (nodes, weights))
    for rows, points in walk.evaluate(alphas, examples):
        walk.add(totals, points, weights[rows], examples[rows])
    spent = torch.full((walk.count,), len(nodes))
    return Integral.of(walk.shares(totals, every, keep), spent, Rise.of(walk, clean, walk.start(every)))


@dataclass(frozen=True)
class Convergence:
    """How far an attribution went. L layers (1 on the joint path), B examples."""

    evaluations: Tensor
    """(L, B): forward and backward passes from the layer on, besides one of the whole model for all layers."""
    gap: Tensor
    """(L, B): |sum(Attr) - (F(A) - F(A0))| over the norm of Attr."""
    error: Tensor
    """(L, B): estimated error of Attr over its norm; where a few evaluations sufficed, or by a fixed rule, the gap."""
    converged: Tensor | None
    """(L, B): whether the tolerance was kept; None without one."""
    complete: Tensor
    """(L, B): whether the gap is below 5% of the norm, rounding aside."""

    @classmethod
    def of(cls, integrals: Sequence[Integral]) -> Convergence:
        """From the integrals of all layers."""
        met = [integral.converged for integral in integrals if integral.converged is not None]
        return cls(
            torch.stack([integral.evaluations for integral in integrals]),
            torch.stack([i.gap.abs() / i.norm.clamp(min=_TINY) for i in integrals]),
            torch.stack([i.error / i.norm.clamp(min=_TINY) for i in integrals]),
            torch.stack(met) if met else None,
            torch.stack([i.gap.abs() <= i.allowed(_WIDE) for i in integrals]),
        )

    def warn(self, names: Sequence[str], tolerance: float | None, n_steps: int) -> None:
        """Say which paths did not come within the tolerance; without one, which are far from complete.

        Args:
            names: Of the paths, L.
            tolerance, n_steps: As they were asked for.
        """
        short = ~(self.complete if self.converged is None else self.converged)
        if not short.any():
            return
        places = short.any(1).nonzero().flatten().tolist()
        worst = [f"{names[place]} {float(self.error[place][short[place]].max()):.1e}" for place in places]
        told = ", ".join(worst[:6]) + (f" and {len(worst) - 6} more" if len(worst) > 6 else "")
        paths = f"{int(short.sum())} of {short.numel()} paths (an example in a layer each)"
        if tolerance is None:
            message = (
                f"{n_steps} steps of this rule were not enough for {paths}: the gap of completeness is wider than 5% "
                f"of the norm of the shares ({told}). Give tolerance=0.01, which takes as many evaluations as a path "
                "asks for, or more steps."
            )
        else:
            message = (
                f"n_steps={n_steps} did not suffice for tolerance={tolerance} on {paths}: the estimated error in parts "
                f"of the norm is {told}. Give more steps; where fewer than these were taken, their points did not fit "
                "memory: give fewer tokens, or fewer examples at a time."
            )
        warn(message)
