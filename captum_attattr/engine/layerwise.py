"""The layerwise path of the paper: the attention of one layer is scaled, and all others are recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.growing_batches import GrowingBatches
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.paths import AttentionPath, Group
from captum_attattr.engine.reductions import Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Points, Walk


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
        batches, count = GrowingBatches(recording, paths, target, chunks), recording.forward.batch_size * steps
        places = sorted(range(len(paths)), key=lambda place: paths[place].state.index)
        while places:
            layers = [paths[place].state.index for place in places]
            sizes = [recording.cost(layer).row_bytes for layer in layers for _ in range(count)]
            fitting = max(1, chunks.fitting(sizes) // count)
            group = fitting if fitting > 1 and recording.joins(layers[0]) else 1
            yield Group({place: LayerWalk(recording, [paths[place]]) for place in places[:group]}, batches.evaluate)
            places = places[group:]


class LayerWalk(Walk):
    """The walk on the path of one layer."""

    end_is_known = True

    def totals(self, cells: int) -> list[Tensor]:
        """Return zeros for gradients with respect to the context, (cells, Q, H, D)."""
        change = self.paths[0].context_change
        return [change.new_zeros((cells, *change.shape[1:]))]

    def add(self, totals: Sequence[Tensor], points: Points, weights: Tensor, cells: Tensor) -> None:
        """See :meth:`Walk.add`."""
        (total,), (gradient,) = totals, points.gradients
        weighted = weights.to(total).view(-1, 1, 1, 1) * gradient
        total.index_add_(0, cells.to(total.device), weighted.to(total))

    def attributions(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[LayerAttributions]:
        """See :meth:`Walk.attributions`."""
        path, gradient = self.paths[0].select(examples), totals[0].transpose(1, 2)
        columns = path.state.values.to(gradient).transpose(2, 3)
        return [gather(path, lambda queries: gradient[:, :, queries] @ columns, keep)]
