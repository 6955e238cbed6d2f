"""The joint path: the attention of all layers is scaled together, and their attributions add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.gradients import differentiated, with_gradients
from captum_attattr.engine.layer_path import LayerPath, full_precision
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.paths import AttentionPath, Group
from captum_attattr.engine.reductions import Keep, LayerAttributions, gather
from captum_attattr.engine.replay import Recording, Substitute
from captum_attattr.engine.walks import Points, Walk, Wanted


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


class JointWalk(Walk):
    """The walk on the paths of several layers scaled together, each with its attention of the clean pass.

    The values V of a layer change along the path, so gradients are summed as matrices, dF/dA = (dF/dC) V^T.
    """

    values_change = True

    def __init__(self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks) -> None:
        super().__init__(recording, paths)
        self._target, self._chunks = target, chunks
        self._frozen = [FrozenMatrices(path) for path in paths]

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
        output = self._recording.replay(
            self._recording.plan(self.first), self._substitutes(alphas, examples, met), examples
        )
        scores = self._recording.forward.scores(output, self._target, examples)
        layers = [met[path.state.index] for path in self.paths]
        if not wanted.gradients:
            return Points(scores, scores.new_zeros(0), [], [])
        gradients = differentiated(scores, [layer.context for layer in layers])
        slopes = torch.stack(
            [
                (gradient.to(layer.slope) * layer.slope).flatten(1).sum(1)
                for gradient, layer in zip(gradients, layers, strict=True)
            ]
        ).sum(0)
        return Points(scores.detach().to(slopes), slopes, list(gradients), [layer.values for layer in layers])

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

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, LayerPoints]) -> dict[int, Substitute]:
        def scaled(frozen: FrozenMatrices) -> Substitute:
            def substitute(call: AttentionCall) -> Tensor:
                context, slope = frozen.context(call, alphas, examples)
                # The graph begins at the first layer: nothing below it has a gradient.
                context = context if context.requires_grad or not torch.is_grad_enabled() else context.requires_grad_()
                met[frozen.path.state.index] = LayerPoints(context, slope, values_met(call, len(examples)).detach())
                return context

            return substitute

        return {frozen.path.state.index: scaled(frozen) for frozen in self._frozen}


class FrozenMatrices:
    """A0 and A - A0 of one layer, kept for the joint path, on which the values change at every step.

    Queries that may look at no key do not count: their context stays that of the clean pass. What a kernel computes for
    them (zero, a mean of all values) differs.

    Args:
        path: The layer's path.
    """

    def __init__(self, path: LayerPath) -> None:
        self.path = path
        self.change = path.change()
        self._start = None if path.start is None else path.state.probabilities().to(self.change) - self.change
        self._all_attend = bool(path.state.attends.all())

    def context(self, call: AttentionCall, alphas: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A(alpha) V, with the values of a replay whose lower layers are scaled as well, and (A - A0) V.

        Both are (R, Q, H, D), for examples (R,) at alphas (R,).
        """
        values = values_met(call, len(examples))
        slope = _applied(self.change, values, examples)
        context = alphas.to(values).view(-1, 1, 1, 1) * slope
        if self._start is not None:
            context = context + _applied(self._start, values, examples)
        if not self._all_attend:
            attends, clean = (one[examples] for one in (self.path.state.attends, self.path.state.context))
            context = torch.where(attends, context, clean.to(context))
            slope = torch.where(attends, slope, 0)
        return context, slope.detach()


def values_met(call: AttentionCall, rows: int) -> Tensor:
    """Return the values (R, H, K, D) of a call, also where its one row of keys and values serves all queries."""
    values = call.values()
    return values.expand(rows, *values.shape[1:]) if len(values) == 1 else values


def _applied(matrices: Tensor, values: Tensor, examples: Tensor) -> Tensor:
    """Multiply each example's matrix (H, Q, K) by the values (R, H, K, D) of its rows: (R, Q, H, D)."""
    count = len(matrices)
    steps = len(examples) // count
    if len(examples) % count == 0 and torch.equal(examples, torch.arange(count, device="cpu").repeat(steps)):
        # All steps of an example side by side in one product, so that its matrix is not repeated.
        columns = values.unflatten(0, (steps, count)).permute(1, 2, 3, 0, 4).flatten(3)
        product: Tensor = (matrices.to(columns.dtype) @ columns).unflatten(-1, (steps, -1))
        return product.permute(3, 0, 2, 1, 4).flatten(0, 1)
    groups = [(examples == example).nonzero().flatten() for example in examples.unique()]
    products = []
    for rows in groups:
        # As above, where examples have different steps.
        columns = values[rows.to(values.device)].permute(1, 2, 0, 3).flatten(2)
        product = matrices[examples[rows[0]]].to(columns.dtype) @ columns
        products.append(product.unflatten(-1, (len(rows), -1)).permute(2, 1, 0, 3))
    return torch.cat(products)[torch.cat(groups).argsort().to(values.device)]
