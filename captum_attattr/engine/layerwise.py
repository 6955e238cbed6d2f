"""The layerwise path of the paper: the attention of one layer is scaled, and all others are recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.growing_batches import GrowingBatches
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.paths import AttentionPath, Group
from captum_attattr.engine.reductions import Gradient, Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Points, Totals, Walk


class Layerwise(AttentionPath):
    """A path of its own for each layer (Hao et al., AAAI 2021)."""

    name = "layerwise"
    layers_add_up = False

    def labels(self, states: Sequence[LayerState]) -> list[str]:
        """See :meth:`AttentionPath.labels`."""
        return [f"layers[{place}] ({state.name})" for place, state in enumerate(states)]

    def groups(
        self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks, steps: int
    ) -> Iterator[Group]:
        """See :meth:`AttentionPath.groups`: neighbouring layers whose first points fit one run of the model."""
        batches, batch_size = GrowingBatches(recording, paths, target, chunks), recording.forward.batch_size
        places = sorted(range(len(paths)), key=lambda place: paths[place].state.index)
        while places:
            layers = [paths[place].state.index for place in places]
            costs = [recording.cost(layer).row_bytes for layer in layers]
            first = costs[:1] * batch_size  # the points at alpha = 1, which serve all
            sizes = first + [cost for cost in costs for _ in range(batch_size * steps)]
            fitting = (chunks.fitting(sizes) - batch_size) // (batch_size * steps)
            group = fitting if fitting > 1 and recording.joins(layers[0]) else 1
            yield Group({place: LayerWalk(recording, [paths[place]]) for place in places[:group]}, batches.evaluate)
            places = places[group:]


class LayerWalk(Walk):
    """The walk on the path of one layer."""

    end_is_known = True

    def totals(self, cells: int) -> LayerTotals:
        """See :meth:`Walk.totals`."""
        return LayerTotals(self.paths[0], cells)


class LayerTotals(Totals):
    """Sums of gradients with respect to the context, (cells, Q, H, D), since the values do not change.

    Args:
        path: The layer's path.
        cells: Number of sums.
    """

    def __init__(self, path: LayerPath, cells: int) -> None:
        self._path, self._sums = path, path.context_change.new_zeros((cells, *path.context_change.shape[1:]))

    @property
    def point_bytes(self) -> int:
        """See :attr:`Totals.point_bytes`."""
        return self._sums.nbytes // max(len(self._sums), 1)

    def add(self, points: Points, weights: Tensor, cells: Tensor) -> None:
        """See :meth:`Totals.add`."""
        (states,) = points.states
        weighted = weights.to(self._sums).view(-1, 1, 1, 1) * torch.stack([state.gradient for state in states])
        self._sums.index_add_(0, cells.to(self._sums.device), weighted.to(self._sums))

    def attributions(self, examples: Tensor, keep: Keep, other: LayerTotals | None = None) -> list[LayerAttributions]:
        """See :meth:`Totals.attributions`."""
        path = self._path.select(examples)
        return [gather(path, self._gradient(path), keep, None if other is None else other._gradient(path))]

    def _gradient(self, path: LayerPath) -> Gradient:
        rows, columns = self._sums.transpose(1, 2), path.state.values.to(self._sums).transpose(2, 3)
        return lambda queries, keys: rows[:, :, queries] @ columns[..., :keys]
