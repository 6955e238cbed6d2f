"""Gradients gathered on the two kinds of path: one layer scaled with the rest recomputed, or all layers together.

    Attr(A) = (A - A0) * integral dF/dA dalpha = (A - A0) * [ (integral dF/dC dalpha) V^T ]

(Hao et al., AAAI 2021, eq. 5, with the integral taken where the computation is linear, C = A V.) A walk adds
weighted gradients to totals, one total a rule, and turns a total into shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.chunks import Chunks
from captum_attattr.path import FrozenMatrices, Path, full_precision
from captum_attattr.reductions import Keep, Shares, gather
from captum_attattr.replay import Recording, Substitute, always


class Values(NamedTuple):
    """F and dF/dalpha at some nodes, (nodes, examples) each."""

    outputs: Tensor
    slopes: Tensor


class Clean(NamedTuple):
    """What one backward pass at the model's own attention tells: F (batch,) and dF/dC of one layer (batch, ...)."""

    output: Tensor
    gradient: Tensor


class LayerWalk:
    """The path of one layer.

    Args:
        recording: The clean pass.
        path: The layer's path.
        target: Captum's.
        chunks: How many rows a run may have.
        clean: F and its gradient at alpha = 1, where these are known: that node then costs nothing.
    """

    def __init__(
        self, recording: Recording, path: Path, target: TargetType, chunks: Chunks, clean: Clean | None = None
    ) -> None:
        self._recording, self._path, self._target, self._chunks, self._clean = recording, path, target, chunks, clean
        self.paths = [path]

    def totals(self, rules: int, examples: int) -> list[Tensor]:
        """Where gradients are summed, one tensor (rules, examples, ...) a layer."""
        return [self._path.context_change.new_zeros((rules, examples, *self._path.context_change.shape[1:]))]

    def cost(self, alphas: Tensor) -> int:
        """How many evaluations these nodes take for each example."""
        return len(alphas) - int(self._clean is not None and bool((alphas == 1).any()))

    def add(self, alphas: Tensor, weights: Tensor, examples: Tensor, totals: Sequence[Tensor]) -> Values:
        """Evaluate F and its gradient at these nodes, and add the gradients to the totals.

        Args:
            alphas: (nodes,).
            weights: (rules, nodes).
            examples: Indices of the examples.
            totals: See :meth:`totals`.
        """
        (total,), weights = totals, weights.to(totals[0])
        if self._clean is not None and alphas[0] == 1:
            return _joined(
                self._known(weights[:, 0], examples, total), self.add(alphas[1:], weights[:, 1:], examples, totals)
            )
        values = Values(*total.new_zeros((2, len(alphas), len(examples))))
        row_bytes = self._recording.row_bytes(self._path.state.index)

        def evaluated(some: slice, steps: slice) -> tuple[Tensor, Tensor, Tensor]:
            chosen = examples[some]
            context = self._path.context(alphas[steps], chosen).requires_grad_()
            rows = chosen.repeat(len(alphas[steps]))
            output = self._recording.replay({self._path.state.index: always(context)}, rows)
            scores, (gradient,) = _gradients(self._recording, output, self._target, rows, [context])
            stepwise = gradient.to(total).unflatten(0, (-1, len(chosen)))
            with full_precision(total):
                weighted = torch.tensordot(weights[:, steps], stepwise, 1)
            slopes = (stepwise * self._path.context_change[chosen]).flatten(2).sum(2)
            return weighted, slopes, scores.to(total).unflatten(0, (-1, len(chosen)))

        for some, steps, (weighted, slopes, scores) in self._chunks.run(
            row_bytes, len(examples), len(alphas), evaluated
        ):
            total[:, some] += weighted
            values.slopes[steps, some], values.outputs[steps, some] = slopes, scores
            self._chunks.done(scores.numel())
        return values

    def _known(self, weights: Tensor, examples: Tensor, total: Tensor) -> Values:
        output, gradient = (value.to(total)[examples] for value in self._clean or ())
        total += weights.view(-1, *[1] * gradient.dim()) * gradient
        slopes = (gradient * self._path.context_change[examples]).flatten(1).sum(1)
        return Values(output.unsqueeze(0), slopes.unsqueeze(0))

    def shares(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[Shares]:
        """Shares of the examples from one rule's totals, a layer each."""
        path, gradient = self._path.of(examples), totals[0].transpose(1, 2)
        columns = path.state.values.to(gradient).transpose(2, 3)
        return [gather(path, lambda queries: gradient[:, :, queries] @ columns, keep)]

    def start(self, examples: Tensor) -> Tensor:
        """F with the attention at the baseline, (examples,)."""
        zero = torch.zeros(1, dtype=torch.float64)
        return _outputs(self._recording, self._chunks, self._target, examples, self.paths, lambda chosen: {
            self._path.state.index: always(self._path.context(zero, chosen))
        })  # fmt: skip


class JointWalk:
    """The path of several layers scaled together, each with its matrix frozen at the clean pass.

    The values that a matrix meets change along the path, so gradients are summed as matrices.
    """

    def __init__(self, recording: Recording, paths: Sequence[Path], target: TargetType, chunks: Chunks) -> None:
        self._recording, self._target, self._chunks, self.paths = recording, target, chunks, list(paths)
        self._frozen = [FrozenMatrices(path) for path in paths]
        self._first = min(path.state.index for path in paths)

    def totals(self, rules: int, examples: int) -> list[Tensor]:
        """Where gradients are summed, one tensor (rules, examples, head, query, key) a layer."""
        return [path.context_change.new_zeros((rules, examples, *path.state.shape[1:])) for path in self.paths]

    def cost(self, alphas: Tensor) -> int:
        """How many evaluations these nodes take for each example."""
        return len(alphas)

    def add(self, alphas: Tensor, weights: Tensor, examples: Tensor, totals: Sequence[Tensor]) -> Values:
        """As :meth:`LayerWalk.add`."""
        values = Values(*totals[0].new_zeros((2, len(alphas), len(examples))))
        row_bytes = self._recording.row_bytes(self._first)

        def evaluated(some: slice, steps: slice) -> tuple[Tensor, tuple[Tensor, ...], dict[int, _Met]]:
            chosen, met = examples[some], dict[int, _Met]()
            rows = chosen.repeat(len(alphas[steps]))
            output = self._recording.replay(self._substitutes(alphas[steps], chosen, met), rows)
            contexts = [met[path.state.index].context for path in self.paths]
            return *_gradients(self._recording, output, self._target, rows, contexts), met

        for some, steps, (scores, gradients, met) in self._chunks.run(row_bytes, len(examples), len(alphas), evaluated):
            shape = (-1, some.stop - some.start)
            for path, total, gradient in zip(self.paths, totals, gradients, strict=True):
                _, columns, slope = met[path.state.index]
                by_step = (t.to(total).unflatten(0, shape) for t in (gradient, columns))
                with full_precision(total):
                    weighted = torch.einsum("rs,sbqhd,sbhkd->rbhqk", weights[:, steps].to(total), *by_step)
                    total[:, some] += weighted
                dots = (gradient.to(total) * slope.to(total)).flatten(1).sum(1)
                values.slopes[steps, some] += dots.unflatten(0, shape)
            values.outputs[steps, some] = scores.to(values.outputs).unflatten(0, shape)
            self._chunks.done(len(scores))
        return values

    def _substitutes(self, alphas: Tensor, examples: Tensor, met: dict[int, _Met]) -> dict[int, Substitute]:
        def scaled(frozen: FrozenMatrices) -> Substitute:
            def substitute(call: AttentionCall) -> Tensor:
                context, slope = frozen.context(call, alphas, examples)
                # Below the first layer nothing has a gradient yet: the graph begins here.
                context = context if context.requires_grad or not torch.is_grad_enabled() else context.requires_grad_()
                met[frozen.path.state.index] = _Met(context, call.values().detach(), slope)
                return context

            return substitute

        return {frozen.path.state.index: scaled(frozen) for frozen in self._frozen}

    def shares(self, totals: Sequence[Tensor], examples: Tensor, keep: Keep) -> list[Shares]:
        """As :meth:`LayerWalk.shares`."""
        return [
            gather(path.of(examples), lambda queries, total=total: total[:, :, queries], keep)  # type: ignore[misc]
            for path, total in zip(self.paths, totals, strict=True)
        ]

    def start(self, examples: Tensor) -> Tensor:
        """F with the attention of all the layers at their baselines, (examples,)."""
        zero = torch.zeros(1, dtype=torch.float64)
        return _outputs(
            self._recording, self._chunks, self._target, examples, self.paths,
            lambda chosen: self._substitutes(zero, chosen, {}),
        )  # fmt: skip


class _Met(NamedTuple):
    """At one layer of a joint step: the context put in, the values met, and the slope of the context in alpha."""

    context: Tensor
    values: Tensor
    slope: Tensor


def clean_gradients(
    recording: Recording, paths: Sequence[Path], target: TargetType, chunks: Chunks
) -> list[Clean]:  # fmt: skip
    """F and dF/dC of every layer at the model's own attention, by one backward pass."""
    first = min(path.state.index for path in paths)
    found = [Clean(path.context_change.new_zeros(len(path.context_change)), torch.zeros_like(path.context_change))
             for path in paths]  # fmt: skip

    def evaluated(some: slice, _: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows, contexts = recording.forward.all_rows[some], dict[int, Tensor]()
        output = recording.replay({path.state.index: _tapped(path.state.index, contexts) for path in paths}, rows)
        return _gradients(recording, output, target, rows, [contexts[path.state.index] for path in paths])

    for some, _, (scores, gradients) in chunks.run(
        recording.row_bytes(first), recording.forward.batch_size, 1, evaluated
    ):
        for clean, gradient in zip(found, gradients, strict=True):
            clean.output[some], clean.gradient[some] = scores.to(clean.output), gradient.to(clean.gradient)
    return found


def _tapped(index: int, contexts: dict[int, Tensor]) -> Substitute:
    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        contexts[index] = context if context.requires_grad else context.detach().requires_grad_()
        return contexts[index]

    return substitute


def _outputs(
    recording: Recording, chunks: Chunks, target: TargetType, examples: Tensor, paths: Sequence[Path], substitutes: Any
) -> Tensor:
    """F of the examples with contexts put in place, without gradients."""
    first = min(path.state.index for path in paths)
    row_bytes = recording.row_bytes(first)

    def evaluated(some: slice, _: slice) -> Tensor:
        with torch.no_grad():
            output = recording.replay(substitutes(examples[some]), examples[some])
            return recording.forward.scores(output, target, examples[some])

    return torch.cat([scores for _, _, scores in chunks.run(row_bytes, len(examples), 1, evaluated)])


def _gradients(
    recording: Recording, output: Tensor, target: TargetType, rows: Tensor, contexts: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    scores = recording.forward.scores(output, target, rows)
    if not scores.requires_grad:
        raise ValueError(
            "The forward function's output does not depend on the attention layer through differentiable operations. "
            "Does it run under torch.no_grad, detach its output, or return a predicted class?"
        )
    gradients = torch.autograd.grad(scores.sum(), contexts, allow_unused=True)
    found = tuple(torch.zeros_like(c) if g is None else g for g, c in zip(gradients, contexts, strict=True))
    if not all(bool(torch.isfinite(gradient).all()) for gradient in found):
        raise ValueError(
            "A gradient on the path is NaN or infinite. Half precision may be too narrow for this model: try float32."
        )
    return scores.detach(), found


def _joined(one: Values, other: Values) -> Values:
    return Values(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
