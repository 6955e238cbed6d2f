"""F and its gradient at points of a path, which a rule of integration adds up to attributions.

    Attr(A) = (A - A0) * integral dF/dA dalpha = (A - A0) * [ (integral dF/dC dalpha) V^T ]

(Hao et al., AAAI 2021, eq. 5; the context C = A V is linear in A, so the integral may be taken over C.) A walk
evaluates points of a path, adds their weighted gradients to totals, and computes attributions from totals. The kinds of
path are in ``layerwise`` and ``joint``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.gradients import differentiated, with_gradients
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.plans import ReplayPlan
from captum_attattr.engine.reductions import Keep, LayerAttributions
from captum_attattr.engine.replay import Recording, Substitute


class Points(NamedTuple):
    """Outputs and gradients at R points of a walk, each an example at an alpha."""

    outputs: Tensor
    """F (R,)."""
    slopes: Tensor
    """dF/dalpha (R,)."""
    gradients: list[Tensor]
    """By layer, dF/dC (R, Q, H, D)."""
    values: list[Tensor]
    """By layer, V (R, H, K, D); empty on the layerwise path, where V does not change."""

    def select(self, rows: Tensor) -> Points:
        """Return some of the points, with repetition."""
        outputs, slopes, gradients, values = self
        return Points(outputs[rows], slopes[rows], [g[rows] for g in gradients], [v[rows] for v in values])

    @classmethod
    def from_parts(cls, parts: Sequence[Points]) -> Points:
        """Make the points of all parts, in their order."""
        layers = ([torch.cat(same) for same in zip(*(part[field] for part in parts), strict=True)] for field in (2, 3))
        return cls(torch.cat([part.outputs for part in parts]), torch.cat([part.slopes for part in parts]), *layers)

    @property
    def bytes(self) -> int:
        """The memory of the points."""
        return sum(tensor.nbytes for tensor in (*self.gradients, *self.values))


class Walk(ABC):
    """Evaluates F and its gradient on the paths of some layers.

    Args:
        recording: The clean pass.
        paths: The paths of the layers that are scaled.
        target: A target in any of Captum's forms.
        chunks: The number of rows that a run may have.
    """

    values_change = False
    """Whether a layer's values V change along the path."""

    def __init__(self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks) -> None:
        self.paths = list(paths)
        self._recording, self._target, self._chunks = recording, target, chunks
        self._first = min(path.state.index for path in paths)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.paths[0].context_change)

    def evaluate(self, alphas: Tensor, examples: Tensor) -> Iterator[tuple[slice, Points]]:
        """Yield F and its gradient for these examples, (R,), at these alphas, (R,), a range of rows at a time."""

        def job(rows: slice) -> tuple[slice, Points]:
            return rows, self._points(alphas[rows], examples[rows])

        return self._chunks.run(job, self._plan.row_bytes, len(alphas))

    @cached_property
    def _plan(self) -> ReplayPlan:
        return self._recording.plan(self._first)

    @property
    def is_kinked(self) -> bool:
        """Whether the gradient may jump on the path."""
        return self._plan.kinked

    def no_points(self) -> Points:
        """Return an empty set of points, to which others can be added."""
        none, states = self.paths[0].context_change.new_zeros(0), [path.state for path in self.paths]
        values = [state.values[:0] for state in states] if self.values_change else []
        return Points(none, none, [state.context[:0] for state in states], values)

    def known(self) -> Points | None:
        """Return the points of all examples at alpha = 1, if one pass for all layers has computed them."""
        return None

    @abstractmethod
    def totals(self, cells: int) -> list[Tensor]:
        """Return zeros to which gradients can be added, a tensor (cells, ...) a layer."""

    @abstractmethod
    def add(self, totals: Sequence[Tensor], points: Points, weights: Tensor, cells: Tensor) -> None:
        """Add the weight (R,) times the gradient of each point to the total of its cell (R,)."""

    @abstractmethod
    def attributions(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[LayerAttributions]:
        """Compute the attributions of each layer from its totals; ``examples`` (cells,) is the example of each cell."""

    @with_gradients(False)
    def start(self, examples: Tensor) -> Tensor:
        """Compute F(A0), (examples,), with the attention of the walk's layers at their baselines."""

        def job(rows: slice) -> Tensor:
            zero = torch.zeros(len(examples[rows]), dtype=torch.float64, device="cpu")
            output = self._recording.replay(self._plan, self._substitutes(zero, examples[rows], {}), examples[rows])
            return self._recording.forward.scores(output, self._target, examples[rows])

        return torch.cat(list(self._chunks.run(job, self._plan.row_bytes, len(examples), 0)))

    @abstractmethod
    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, LayerPoints]) -> Mapping[int, Substitute]:
        """Return what puts the contexts of these points in place; it records them in ``met``, by layer."""

    def _points(self, alphas: Tensor, examples: Tensor) -> Points:
        met: dict[int, LayerPoints] = {}
        output = self._recording.replay(self._plan, self._substitutes(alphas, examples, met), examples)
        layers = [met[path.state.index] for path in self.paths]
        contexts = [layer.context for layer in layers]
        scores, gradients = gradients_at(self._recording, output, self._target, examples, contexts)
        slopes = sum(
            (gradient.to(layer.slope) * layer.slope).flatten(1).sum(1)
            for gradient, layer in zip(gradients, layers, strict=True)
        )
        values = [layer.values for layer in layers if layer.values is not None]
        return Points(scores.to(slopes), torch.as_tensor(slopes, device=contexts[0].device), list(gradients), values)


class LayerPoints(NamedTuple):
    """The state of one layer at some points: its context, dC/dalpha, and the values if they change."""

    context: Tensor
    slope: Tensor
    values: Tensor | None


def gradients_at(
    recording: Recording, output: Tensor, target: TargetType, rows: Tensor, contexts: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute F and its gradient with respect to some contexts, from the output of a replay of these rows."""
    scores = recording.forward.scores(output, target, rows)
    return scores.detach(), differentiated(scores, contexts)
