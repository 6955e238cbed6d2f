"""Points on the paths of several layers, evaluated in one batch that grows from layer to layer.

A replay for each layer by itself would run L (L + 1) / 2 blocks, each on a few rows. In one replay of all layers L
blocks run: each on the rows of its own layer and of those below (:mod:`captum_attattr.engine.joining`). The operations
are the same, and the fewer and larger ones are faster. At alpha = 1 all paths are at the model's own attention, so one
row an example, from the lowest layer on, serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.gradients import differentiated, with_gradients
from captum_attattr.engine.joining import Joining, Part
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.replay import Recording
from captum_attattr.engine.walks import Points, PointState, Wanted


class _Rows(NamedTuple):
    """Points of one layer."""

    path: LayerPath
    alphas: Tensor
    examples: Tensor
    wanted: Wanted | None
    """The request that they answer; None for the points at alpha = 1, which start at the lowest layer and serve all."""
    offset: int = 0
    """The place of the first of these points in the request."""

    def part(self, start: int, stop: int) -> _Rows:
        """Return some of them."""
        rows = slice(max(start, 0), max(stop, 0))
        return self._replace(alphas=self.alphas[rows], examples=self.examples[rows], offset=self.offset + rows.start)


class GrowingBatches:
    """Evaluates points on the paths of some layers.

    Args:
        recording: The clean pass.
        paths: The paths of all layers, of which any may be asked for.
        target: A target in any of Captum's forms.
        chunks: The number of rows that a run may have.
    """

    def __init__(self, recording: Recording, paths: Sequence[LayerPath], target: TargetType, chunks: Chunks) -> None:
        self._recording, self._target, self._chunks = recording, target, chunks
        self._paths = sorted(paths, key=lambda path: path.state.index)
        self._ends: dict[int, Points] = {}
        """The points at alpha = 1 of all examples, by attention call."""

    def evaluate(self, wanted: Sequence[Wanted]) -> None:
        """Evaluate points, as many of them together as the model and the memory allow."""
        outputs = [self._rows(one, 0, len(one.alphas)) for one in wanted if not one.gradients]
        self._evaluate(outputs, gradients=False)
        ends, others = list[_Rows](), list[_Rows]()
        for one in wanted:
            for start, stop, at_end in _runs(one.alphas == 1) if one.gradients else ():
                (ends if at_end else others).append(self._rows(one, start, stop))
        if ends and not self._ends:
            every = self._recording.forward.all_rows
            others.insert(0, _Rows(self._paths[0], torch.ones(len(every), device="cpu").double(), every, None))
        self._evaluate(others, gradients=True)
        for rows in ends:
            _hand_over(rows, self._ends[rows.path.state.index].select(rows.examples))
            self._chunks.done(len(rows.alphas))

    @staticmethod
    def _rows(wanted: Wanted, start: int, stop: int) -> _Rows:
        (path,) = wanted.walk.paths
        return _Rows(path, wanted.alphas, wanted.examples, wanted).part(start, stop)

    def _evaluate(self, rows: Sequence[_Rows], gradients: bool) -> None:
        ordered = sorted(rows, key=lambda one: one.path.state.index)
        for batch in self._batches(ordered):
            costs = [self._recording.cost(one.path.state.index).row_bytes for one in batch]
            sizes = [cost for one, cost in zip(batch, costs, strict=True) for _ in range(len(one.alphas))]
            run = with_gradients(gradients)(lambda some, batch=batch: self._run_some(_cut(batch, some), gradients))
            for found in self._chunks.run(run, sizes):
                for one, points in found:
                    self._take(one, points)
                self._chunks.done(sum(len(one.alphas) for one, _ in found if gradients and one.wanted is not None))

    def _batches(self, rows: list[_Rows]) -> list[list[_Rows]]:
        """Put the rows of all layers into one batch where rows may join on the way, else those of each into its own."""
        return [rows] if self._may_join(rows) else [[one] for one in rows]

    def _may_join(self, rows: Sequence[_Rows]) -> bool:
        layers = {one.path.state.index for one in rows}
        return len(layers) < 2 or self._recording.joins(min(layers))

    def _take(self, rows: _Rows, points: Points) -> None:
        """Hand the points over, or keep them as those of all layers at alpha = 1."""
        if rows.wanted is not None:
            _hand_over(rows, points)
            return
        for path, states in zip(self._paths, points.states, strict=True):
            slopes = _slopes(path, rows.examples, torch.stack([state.gradient for state in states]))
            end = Points(points.outputs.to(slopes), slopes, [states])
            known = self._ends.get(path.state.index)
            self._ends[path.state.index] = end if known is None else Points.from_parts([known, end])

    def _run_some(self, rows: Sequence[_Rows], gradients: bool) -> list[tuple[_Rows, Points]]:
        """Evaluate a part of a batch, which may begin at a higher layer than the whole."""
        parts = [rows] if self._may_join(rows) else [[one] for one in rows]
        return [found for part in parts for found in self._run(part, gradients)]

    def _run(self, rows: Sequence[_Rows], gradients: bool) -> list[tuple[_Rows, Points]]:
        """Evaluate these points in one run of the model."""
        joining = Joining(list(self._parts(rows)))
        plan = self._recording.plan(joining.first)
        output = self._recording.replay(plan, joining.substitutes(), joining.rows, joining.starts)
        scores = self._recording.forward.scores(output, self._target, joining.rows)
        layers = list(joining.ranges)
        contexts = [joining.contexts[layer] for layer in layers]
        found = dict(zip(layers, differentiated(scores, contexts), strict=True)) if gradients else {}
        return list(self._points(rows, joining, scores.detach(), found))

    def _parts(self, rows: Sequence[_Rows]) -> Iterator[Part]:
        """Yield the rows of each layer; all layers take part where points at alpha = 1 serve them all."""
        all_layers = any(one.wanted is None for one in rows)
        for path in self._paths:
            mine = [one for one in rows if one.path is path]
            if mine or all_layers:
                examples = torch.cat([self._recording.forward.all_rows[:0], *(one.examples for one in mine)])
                alphas = torch.cat([torch.zeros(0, dtype=torch.float64, device="cpu"), *(one.alphas for one in mine)])
                yield Part(path.state, examples, path.context(alphas, examples))

    def _points(
        self, rows: Sequence[_Rows], joining: Joining, scores: Tensor, gradients: dict[int, Tensor]
    ) -> Iterator[tuple[_Rows, Points]]:
        start = 0
        for one in rows:
            mine = slice(start, start + len(one.alphas))
            start = mine.stop
            if not gradients:
                yield one, Points(scores[mine], scores.new_zeros(0), [])
            elif one.wanted is None:
                states = [_states(gradient[mine]) for gradient in gradients.values()]
                yield one, Points(scores[mine], scores.new_zeros(0), states)
            else:
                gradient = gradients[one.path.state.index][mine]
                slopes = _slopes(one.path, one.examples, gradient)
                yield one, Points(scores[mine].to(slopes), slopes, [_states(gradient)])


def _runs(chosen: Tensor) -> Iterator[tuple[int, int, bool]]:
    """Yield where runs of equal values start and stop, with the value."""
    start = 0
    for value, count in zip(*(found.tolist() for found in chosen.unique_consecutive(return_counts=True)), strict=True):
        yield start, start + count, value
        start += count


def _cut(rows: Sequence[_Rows], some: slice) -> list[_Rows]:
    """Return the rows in a range, where the rows of all layers are numbered through."""
    start, found = 0, []
    for one in rows:
        found.append(one.part(some.start - start, some.stop - start))
        start += len(one.alphas)
    return [one for one in found if len(one.alphas)]


def _hand_over(rows: _Rows, points: Points) -> None:
    if rows.wanted is not None:
        rows.wanted.take(slice(rows.offset, rows.offset + len(rows.alphas)), points)


def _states(gradient: Tensor) -> list[PointState]:
    """Return the states of points, each with memory of its own, which goes with it."""
    return [PointState(row.clone()) for row in gradient]


def _slopes(path: LayerPath, examples: Tensor, gradient: Tensor) -> Tensor:
    """Compute dF/dalpha, (R,), from dF/dC at points of these examples."""
    slopes: Tensor = (gradient.to(path.context_change) * path.context_change[examples]).flatten(1).sum(1)
    return slopes
