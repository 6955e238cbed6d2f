"""F and its gradient at points of a path, which a rule of integration adds up to attributions.

    Attr(A) = (A - A0) * integral dF/dA dalpha = (A - A0) * [ (integral dF/dC dalpha) V^T ]

(Hao et al., AAAI 2021, eq. 5; the context C = A V is linear in A, so the integral may be taken over C.) A walk adds the
weighted gradients at points of its path to totals, and computes attributions from totals. An integral over a walk is a
:data:`Course`: it says which points it wants next and goes on when it has them, so that the points which several
integrals want at the same time are evaluated together. The kinds of path are in ``layerwise`` and ``joint``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.reductions import Keep, LayerAttributions
from captum_attattr.engine.replay import Recording

T = TypeVar("T")


class PointState(NamedTuple):
    """What is kept of a layer at one point."""

    gradient: Tensor
    """dF/dC (Q, H, D)."""
    values: Tensor | None = None
    """V (H or group, K, D); None on the layerwise path, where V does not change."""


class Points(NamedTuple):
    """Outputs and gradients at R points of a walk, each an example at an alpha."""

    outputs: Tensor
    """F (R,)."""
    slopes: Tensor
    """dF/dalpha (R,)."""
    states: Sequence[Sequence[PointState]]
    """By layer, the state at each of the R points: apart, so that points are chosen and put together without copies."""

    def select(self, rows: Tensor) -> Points:
        """Return some of the points, with repetition."""
        states = [[layer[row] for row in rows.tolist()] for layer in self.states]
        return Points(self.outputs[rows], self.slopes[rows], states)

    @classmethod
    def from_parts(cls, parts: Sequence[Points]) -> Points:
        """Make the points of all parts, in their order."""
        states: Sequence[Sequence[PointState]] = [
            [state for layer in same for state in layer] for same in zip(*(part.states for part in parts), strict=True)
        ]
        return cls(torch.cat([part.outputs for part in parts]), torch.cat([part.slopes for part in parts]), states)

    @property
    def bytes(self) -> int:
        """The memory of the points."""
        return sum(tensor.nbytes for layer in self.states for state in layer for tensor in state if tensor is not None)


@dataclass(frozen=True)
class Wanted:
    """Points of a walk: of these examples, (R,), at these alphas, (R,)."""

    walk: Walk
    alphas: Tensor
    examples: Tensor
    take: Callable[[slice, Points], object]
    """Gets the points, of a range of the rows at a time, in any order."""
    gradients: bool = True
    """Whether more than the outputs is wanted."""


Course = Generator[Wanted, None, T]
"""An integral in progress: a generator that yields the points it wants and returns its result."""


class Walk(ABC):
    """The paths of some layers that are scaled together.

    Args:
        recording: The clean pass.
        paths: The paths of these layers.
    """

    end_is_known = False
    """Whether the point alpha = 1 costs nothing, since one pass serves all layers."""

    def __init__(self, recording: Recording, paths: Sequence[LayerPath]) -> None:
        self.paths, self._recording = list(paths), recording
        self.first = min(path.state.index for path in paths)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.paths[0].context_change)

    @property
    def is_kinked(self) -> bool:
        """Whether the gradient may jump on the path."""
        return self._recording.cost(self.first).kinked

    def no_points(self) -> Points:
        """Return an empty set of points, to which others can be added."""
        none = self.paths[0].context_change.new_zeros(0)
        return Points(none, none, [[] for _ in self.paths])

    def points(self, alphas: Tensor, examples: Tensor) -> Course[Points]:
        """Ask for F and its gradient for these examples, (R,), at these alphas, (R,)."""
        parts = {-1: self.no_points()}
        yield Wanted(self, alphas, examples, lambda rows, points: parts.update({rows.start: points}))
        return Points.from_parts([parts[start] for start in sorted(parts)])

    def start(self, examples: Tensor) -> Course[Tensor]:
        """Ask for F(A0), (examples,), with the attention of the walk's layers at their baselines."""
        parts: dict[int, Tensor] = {}
        zeros = torch.zeros(len(examples), dtype=torch.float64, device="cpu")
        yield Wanted(self, zeros, examples, lambda rows, points: parts.update({rows.start: points.outputs}), False)
        return torch.cat([parts[start] for start in sorted(parts)])

    @abstractmethod
    def totals(self, cells: int) -> Totals:
        """Return sums to which gradients can be added, one for each cell: an example, or a part of its path."""


class Totals(ABC):
    """Weighted sums of gradients at points of a walk, one for each cell."""

    @property
    @abstractmethod
    def point_bytes(self) -> int:
        """Memory of a cell for each of its points, at most."""

    @abstractmethod
    def add(self, points: Points, weights: Tensor, cells: Tensor) -> None:
        """Add the weight (R,) times the gradient of each point to the sum of its cell (R,)."""

    @abstractmethod
    def attributions(self, examples: Tensor, keep: Keep, other: Self | None = None) -> list[LayerAttributions]:
        """Compute the attributions of each layer.

        Args:
            examples: The example of each cell, (cells,).
            keep: What to keep of them.
            other: Other sums, of whose attributions the norm is asked for as well.
        """


def together(going_on: dict[int, Course[T]], evaluate: Callable[[Sequence[Wanted]], object]) -> dict[int, T]:
    """Run integrals in step: the points that they want at the same time are evaluated together.

    Args:
        going_on: The integrals; each is taken out when it has ended.
        evaluate: Evaluates points and hands them to those who want them.
    """
    results: dict[int, T] = {}
    while going_on:
        wanted = []
        for place, course in list(going_on.items()):
            try:
                wanted.append(next(course))
            except StopIteration as stop:
                results[place] = stop.value
                del going_on[place]
        if wanted:
            evaluate(wanted)
    return results
