"""The joint path: the attention of all layers is scaled together, and their attributions add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.attention.call import repeated_row
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.frozen_attention import FrozenAttention
from captum_attattr.engine.gradients import differentiated, with_gradients
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.paths import AttentionPath, Group
from captum_attattr.engine.reductions import Gradient, Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording, Substitute
from captum_attattr.engine.walks import Points, PointState, Totals, Walk, Wanted


class Joint(AttentionPath):
    """One path for all layers, each with its attention of the clean pass times the same alpha."""

    name = "joint"
    layers_add_up = True

    def labels(self, states: Sequence[LayerState]) -> list[str]:
        """See :meth:`AttentionPath.labels`."""
        return ["the joint path"]

    def groups(
        self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks, steps: int
    ) -> Iterator[Group]:
        """See :meth:`AttentionPath.groups`: one walk."""
        walk = JointWalk(recording, paths, target, chunks)
        yield Group({0: walk}, walk.evaluate)


class LayerPoints(NamedTuple):
    """The state of one layer at some points: its context, dC/dalpha, and the values."""

    context: Tensor
    slope: Tensor
    values: Tensor
    """(R, H or group, K, D)."""


class JointWalk(Walk):
    """The walk on the paths of several layers scaled together, each with its attention of the clean pass.

    Args:
        recording, paths: As for :class:`Walk`.
        target: A target in any of Captum's forms.
        chunks: The number of rows that a run may have.
    """

    def __init__(self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks) -> None:
        super().__init__(recording, paths)
        self._target, self._chunks = target, chunks
        self._frozen = [FrozenAttention(path) for path in paths]

    def totals(self, cells: int) -> JointTotals:
        """See :meth:`Walk.totals`."""
        return JointTotals(self.paths, cells)

    def evaluate(self, wanted: Sequence[Wanted]) -> None:
        """Evaluate points of this walk."""
        for one in wanted:
            run = with_gradients(one.gradients)(lambda rows, one=one: (rows, self._points(one, rows)))
            sizes = [self._recording.cost(self.first).row_bytes] * len(one.alphas)
            for rows, points in self._chunks.run(run, sizes):
                one.take(rows, points)
                self._chunks.done(len(points.outputs) if one.gradients else 0)

    def _points(self, wanted: Wanted, rows: slice) -> Points:
        alphas, examples, met = wanted.alphas[rows], wanted.examples[rows], dict[int, LayerPoints]()
        plan, substitutes = self._recording.plan(self.first), self._substitutes(alphas, examples, met)
        output = self._recording.replay(plan, substitutes, examples)
        scores = self._recording.forward.scores(output, self._target, examples)
        if not wanted.gradients:
            return Points(scores, scores.new_zeros(0), [])
        layers = [met[path.state.index] for path in self.paths]
        gradients = differentiated(scores, [layer.context for layer in layers])
        both = zip(gradients, layers, strict=True)
        slopes = torch.stack([(gradient.to(one.slope) * one.slope).flatten(1).sum(1) for gradient, one in both]).sum(0)
        both = zip(gradients, layers, strict=True)
        states = [
            [PointState(g.clone(), v.clone()) for g, v in zip(one, layer.values, strict=True)] for one, layer in both
        ]
        return Points(scores.detach().to(slopes), slopes, states)

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, LayerPoints]) -> dict[int, Substitute]:
        def scaled(frozen: FrozenAttention) -> Substitute:
            def substitute(call: AttentionCall) -> Tensor:
                context, slope = frozen.context(call, alphas, examples)
                # The graph begins at the first layer: nothing below it has a gradient.
                context = context if context.requires_grad or not torch.is_grad_enabled() else context.requires_grad_()
                values = repeated_row(call.grouped_values().detach(), len(examples))
                met[frozen.path.state.index] = LayerPoints(context, slope, values)
                return context

            return substitute

        return {frozen.path.state.index: scaled(frozen) for frozen in self._frozen}


class JointTotals(Totals):
    """Sums of gradients with respect to the attention, which are made as products where they are needed.

    The values V_s of a layer change from point to point. So the gradients dF/dC and the values are kept, which grow
    with the number of tokens, and not their products, which grow with its square:

        sum_s w_s dF/dA_s = sum_s w_s G_s V_s^T,      G_s = dF/dC at point s

    is one product of matrices with all points of a cell side by side.

    Args:
        paths: The paths of the layers.
        cells: Number of sums.
    """

    def __init__(self, paths: Sequence[LayerPath], cells: int) -> None:
        self._paths, self._count = paths, cells
        self._added: list[tuple[Points, Tensor, Tensor]] = []

    @property
    def point_bytes(self) -> int:
        """See :attr:`Totals.point_bytes`."""
        return sum(path.context_change[:1].nbytes + path.state.values[:1].nbytes for path in self._paths)

    def add(self, points: Points, weights: Tensor, cells: Tensor) -> None:
        """See :meth:`Totals.add`."""
        self._added.append((points, weights, cells))

    def attributions(self, examples: Tensor, keep: Keep, other: JointTotals | None = None) -> list[LayerAttributions]:
        """See :meth:`Totals.attributions`."""
        return [
            gather(
                path.select(examples), self._gradient(place), keep, None if other is None else other._gradient(place)
            )
            for place, path in enumerate(self._paths)
        ]

    def _gradient(self, place: int) -> Gradient:
        stacked = [self._stacked(place, cell) for cell in range(self._count)]
        return lambda queries, keys: torch.stack([rows[:, queries] @ columns[..., :keys] for rows, columns in stacked])

    def _stacked(self, place: int, cell: int) -> tuple[Tensor, Tensor]:
        """Return w_s G_s (H, Q, points * D) and V_s^T (H, points * D, K) of a cell."""
        like, states, kept = self._paths[place].context_change, list[PointState](), list[Tensor]()
        for points, weights, cells in self._added:
            rows = (cells == cell).nonzero().flatten()
            states += [points.states[place][row] for row in rows.tolist()]
            kept.append(weights[rows])
        gradients = torch.stack([state.gradient for state in states]).to(like)
        gradients *= torch.cat(kept).to(like).view(-1, 1, 1, 1)
        values = torch.stack([state.values for state in states if state.values is not None]).to(like)
        values = values.repeat_interleave(like.shape[2] // max(values.shape[1], 1), 1)
        return gradients.permute(2, 1, 0, 3).flatten(2), values.permute(1, 0, 3, 2).flatten(1, 2)
