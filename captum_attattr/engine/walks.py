"""F and its gradient at points on the two kinds of path: one layer scaled and the rest recomputed, or all together.

    Attr(A) = (A - A0) * integral dF/dA dalpha = (A - A0) * [ (integral dF/dC dalpha) V^T ]

(Hao et al., AAAI 2021, eq. 5; the context C = A V is linear in A, so the integral may be taken over C.) A walk
evaluates points of a path, adds their weighted gradients to totals, and computes attributions from totals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.path import FrozenMatrices, LayerPath, full_precision
from captum_attattr.engine.reductions import Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording, Substitute, always


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

        return self._chunks.run(job, self._recording.row_bytes(self._first), len(alphas))

    @property
    def is_kinked(self) -> bool:
        """Whether the gradient may jump on the path."""
        return self._recording.is_kinked(self._first)

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
            zero = torch.zeros(len(examples[rows]), dtype=torch.float64)
            output = self._recording.replay(self._substitutes(zero, examples[rows], {}), examples[rows])
            return self._recording.forward.scores(output, self._target, examples[rows])

        return torch.cat(list(self._chunks.run(job, self._recording.row_bytes(self._first), len(examples), 0)))

    @abstractmethod
    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, _LayerPoints]) -> Mapping[int, Substitute]:
        """Return what puts the contexts of these points in place; it records them in ``met``, by layer."""

    def _points(self, alphas: Tensor, examples: Tensor) -> Points:
        met: dict[int, _LayerPoints] = {}
        output = self._recording.replay(self._substitutes(alphas, examples, met), examples)
        layers = [met[path.state.index] for path in self.paths]
        contexts = [layer.context for layer in layers]
        scores, gradients = _gradients(self._recording, output, self._target, examples, contexts)
        slopes = sum(
            (gradient.to(layer.slope) * layer.slope).flatten(1).sum(1)
            for gradient, layer in zip(gradients, layers, strict=True)
        )
        values = [layer.values for layer in layers if layer.values is not None]
        return Points(scores.to(slopes), torch.as_tensor(slopes), list(gradients), values)


class _LayerPoints(NamedTuple):
    """The state of one layer at some points: its context, dC/dalpha, and the values if they change."""

    context: Tensor
    slope: Tensor
    values: Tensor | None


class Clean(NamedTuple):
    """F (batch,) and dF/dC of one layer (batch, ...) at the model's own attention."""

    output: Tensor
    gradient: Tensor


class LayerWalk(Walk):
    """The walk on the path of one layer.

    Args:
        recording, path, target, chunks: As for :class:`Walk`.
        clean: F and its gradient at alpha = 1, if they are known: this point then needs no evaluation.
    """

    def __init__(
        self, recording: Recording, path: LayerPath, target: TargetType, chunks: Chunks, clean: Clean | None = None
    ) -> None:
        super().__init__(recording, [path], target, chunks)
        self._path, self._clean = path, clean

    def known(self) -> Points | None:
        """See :meth:`Walk.known`."""
        if self._clean is None:
            return None
        output, gradient = self._clean
        return Points(output, (gradient * self._path.context_change).flatten(1).sum(1), [gradient], [])

    def totals(self, cells: int) -> list[Tensor]:
        """Return zeros for gradients with respect to the context, (cells, Q, H, D)."""
        return [self._path.context_change.new_zeros((cells, *self._path.context_change.shape[1:]))]

    def add(self, totals: Sequence[Tensor], points: Points, weights: Tensor, cells: Tensor) -> None:
        """See :meth:`Walk.add`."""
        (total,), (gradient,) = totals, points.gradients
        weighted = weights.to(total).view(-1, 1, 1, 1) * gradient
        total.index_add_(0, cells.to(total.device), weighted.to(total))

    def attributions(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[LayerAttributions]:
        """See :meth:`Walk.attributions`."""
        path, gradient = self._path.select(examples), totals[0].transpose(1, 2)
        columns = path.state.values.to(gradient).transpose(2, 3)
        return [gather(path, lambda queries: gradient[:, :, queries] @ columns, keep)]

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, _LayerPoints]) -> dict[int, Substitute]:
        context = self._path.context(alphas, examples).requires_grad_(torch.is_grad_enabled())
        met[self._first] = _LayerPoints(context, self._path.context_change[examples], None)
        return {self._first: always(context)}


class JointWalk(Walk):
    """The walk on the paths of several layers scaled together, each with its attention of the clean pass.

    The values V of a layer change along the path, so gradients are summed as matrices, dF/dA = (dF/dC) V^T.
    """

    values_change = True

    def __init__(self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks) -> None:
        super().__init__(recording, paths, target, chunks)
        self._frozen = [FrozenMatrices(path) for path in paths]

    def totals(self, cells: int) -> list[Tensor]:
        """Return zeros for gradients with respect to the attention, (cells, head, query, key) a layer."""
        return [path.context_change.new_zeros((cells, *path.state.shape[1:])) for path in self.paths]

    def add(self, totals: Sequence[Tensor], points: Points, weights: Tensor, cells: Tensor) -> None:
        """See :meth:`Walk.add`."""
        found, counts = cells.unique(return_counts=True)
        order = cells.argsort(stable=True)
        # Cells with equally many points go together, the points of each side by side in one product.
        for count in counts.unique().tolist():
            some = found[counts == count]
            rows = order[torch.isin(cells[order], some)].view(len(some), count)
            for total, gradient, values in zip(totals, points.gradients, points.values, strict=True):
                with full_precision(total):
                    weighted = weights[rows].to(total).view(*rows.shape, 1, 1, 1) * gradient[rows].to(total)
                    total[some] += torch.einsum("crqhd,crhkd->chqk", weighted, values[rows].to(total))

    def attributions(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[LayerAttributions]:
        """See :meth:`Walk.attributions`."""
        return [
            gather(path.select(examples), lambda queries, total=total: total[:, :, queries], keep)  # type: ignore[misc]
            for path, total in zip(self.paths, totals, strict=True)
        ]

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, _LayerPoints]) -> dict[int, Substitute]:
        def scaled(frozen: FrozenMatrices) -> Substitute:
            def substitute(call: AttentionCall) -> Tensor:
                context, slope = frozen.context(call, alphas, examples)
                # The graph begins at the first layer: nothing below it has a gradient.
                context = context if context.requires_grad or not torch.is_grad_enabled() else context.requires_grad_()
                met[frozen.path.state.index] = _LayerPoints(context, slope, call.values().detach())
                return context

            return substitute

        return {frozen.path.state.index: scaled(frozen) for frozen in self._frozen}


def clean_gradients(
    recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks
) -> list[Clean]:  # fmt: skip
    """Compute F and dF/dC of every layer at the model's own attention, by one backward pass."""

    def job(some: slice) -> list[Clean]:
        rows, contexts = recording.forward.all_rows[some], dict[int, Tensor]()
        output = recording.replay({path.state.index: _tapped(path.state.index, contexts) for path in paths}, rows)
        met = [contexts[path.state.index] for path in paths]
        scores, gradients = _gradients(recording, output, target, rows, met)
        return [
            Clean(scores.to(path.context_change), gradient.to(path.context_change))
            for path, gradient in zip(paths, gradients, strict=True)
        ]

    row_bytes = recording.row_bytes(min(path.state.index for path in paths))
    parts = list(chunks.run(job, row_bytes, recording.forward.batch_size, 0))
    return [Clean(*map(torch.cat, zip(*layer, strict=True))) for layer in zip(*parts, strict=True)]


def _tapped(index: int, contexts: dict[int, Tensor]) -> Substitute:
    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        contexts[index] = context if context.requires_grad else context.detach().requires_grad_()
        return contexts[index]

    return substitute


def _gradients(
    recording: Recording, output: Tensor, target: TargetType, rows: Tensor, contexts: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    scores = recording.forward.scores(output, target, rows)
    gradients: Sequence[Tensor | None] = [None]
    if scores.requires_grad:
        gradients = torch.autograd.grad(scores.sum(), contexts, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "The forward function's output does not depend on the attention layer through differentiable operations. "
            "Does it run under torch.no_grad, detach its output, or return a predicted class?"
        )
    found = tuple(torch.zeros_like(c) if g is None else g for g, c in zip(gradients, contexts, strict=True))
    if not all(bool(torch.isfinite(gradient).all()) for gradient in found):
        raise ValueError(
            "A gradient on the path is NaN or infinite. Half precision may be too narrow for this model: try float32."
        )
    return scores.detach(), found
