"""The layerwise path of the paper: the attention of one layer is scaled, and all others are recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.paths import AttentionPath
from captum_attattr.engine.reductions import Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording, Substitute, always
from captum_attattr.engine.walks import LayerPoints, Points, Walk, gradients_at


class Layerwise(AttentionPath):
    """A path of its own for each layer (Hao et al., AAAI 2021)."""

    name = "layerwise"
    layers_add_up = False

    def labels(self, states: Sequence[LayerState]) -> list[str]:
        """See :meth:`AttentionPath.labels`."""
        return [f"layers[{place}] ({state.name})" for place, state in enumerate(states)]

    def walks(
        self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks, adaptive: bool
    ) -> Sequence[Walk]:
        """See :meth:`AttentionPath.walks`."""
        known: Sequence[Any] = clean_gradients(recording, paths, target, chunks) if adaptive else [None] * len(paths)
        return [LayerWalk(recording, path, target, chunks, one) for path, one in zip(paths, known, strict=True)]


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

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, LayerPoints]) -> dict[int, Substitute]:
        context = self._path.context(alphas, examples).requires_grad_(torch.is_grad_enabled())
        met[self._first] = LayerPoints(context, self._path.context_change[examples], None)
        return {self._first: always(context)}


def clean_gradients(
    recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks
) -> list[Clean]:  # fmt: skip
    """Compute F and dF/dC of every layer at the model's own attention, by one backward pass."""

    def job(some: slice) -> list[Clean]:
        rows, contexts = recording.forward.all_rows[some], dict[int, Tensor]()
        taps = {path.state.index: _tapped(path.state.index, contexts) for path in paths}
        output = recording.replay(plan, taps, rows)
        met = [contexts[path.state.index] for path in paths]
        scores, gradients = gradients_at(recording, output, target, rows, met)
        return [
            Clean(scores.to(path.context_change), gradient.to(path.context_change))
            for path, gradient in zip(paths, gradients, strict=True)
        ]

    plan = recording.plan(min(path.state.index for path in paths))
    parts = list(chunks.run(job, plan.row_bytes, recording.forward.batch_size, 0))
    return [Clean(*map(torch.cat, zip(*layer, strict=True))) for layer in zip(*parts, strict=True)]


def _tapped(index: int, contexts: dict[int, Tensor]) -> Substitute:
    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        contexts[index] = context if context.requires_grad else context.detach().requires_grad_()
        return contexts[index]

    return substitute
