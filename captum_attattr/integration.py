"""The two paths from a baseline to the attention that the model used, and the gradients gathered on them.

A layer uses its attention A only through the context C = A V, which is linear in A, so

    Attr(A) = (A - A0) * integral dF/dA dalpha = (A - A0) * [ (integral dF/dC dalpha) V^T ]

and the path is walked with contexts, tensors of the size of the hidden state (Hao et al., AAAI 2021,
eq. 5, with the integral taken where the computation is linear).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.replay import LayerState, Recording, Substitute

# Rows beyond this do not run faster on a CPU, and what they keep for their gradients leaves its caches.
_CPU_BYTES = 256 * 2**20
_GPU_SHARE = 0.5


@dataclass(frozen=True)
class Path:
    """A straight line in one layer's attention, A(alpha) = A0 + alpha change, and in its context.

    Rows of padding stay where the model has them, A0 = A: they do not count.
    """

    state: LayerState
    change: Tensor
    """A - A0 (B, H, Q, K), zero on pairs that do not count."""
    context_change: Tensor
    """(A - A0) V (B, Q, H, D)."""
    start: Tensor | None
    """A0 (B, H, Q, K); None where it is zero everywhere."""

    @classmethod
    def to(cls, state: LayerState, baseline: Tensor | None) -> Path:
        """The path from ``baseline`` (None: no attention) to what the layer did."""
        dtype = torch.promote_types(state.context.dtype, torch.float32)
        attention = state.probabilities.to(dtype)
        change = attention if baseline is None else attention - baseline.to(dtype)
        change = change.masked_fill(~state.pairs, 0)
        attends = state.pairs.any(-1).transpose(1, 2).unsqueeze(-1)
        if baseline is None:
            # Exactly the context that the model used, whatever precision its probabilities came in.
            context_change = state.context.to(dtype).masked_fill(~attends, 0)
            return cls(state, change, context_change, None if bool(attends.all()) else attention - change)
        with full_precision(change):
            context_change = (change @ state.values.to(dtype)).transpose(1, 2)
        return cls(state, change, context_change, attention - change)

    def context(self, alphas: Tensor, examples: slice) -> Tensor:
        """C(alpha) for each alpha and example, step-major: (steps * examples, Q, H, D), in the model's dtype."""
        away = (1 - alphas).to(self.context_change).view(-1, 1, 1, 1, 1)
        context = self.state.context[examples]
        points = context - away * self.context_change[examples]
        return points.flatten(0, 1).to(context.dtype)

    def frozen_context(self, call: AttentionCall, alphas: Tensor, examples: slice) -> Tensor:
        """A(alpha) V with the values of a replay in which the layers below have changed, too; shaped as above."""
        values = call.values().unflatten(0, (len(alphas), -1))
        steps, batch, heads, keys, dim = values.shape
        # All steps side by side in one product: the matrix is neither repeated nor kept more than once.
        columns = values.permute(1, 2, 3, 0, 4).reshape(batch, heads, keys, steps * dim)

        def applied(matrix: Tensor) -> Tensor:
            product = matrix[examples].to(columns.dtype) @ columns
            return product.unflatten(-1, (steps, dim)).permute(3, 0, 2, 1, 4)

        context = alphas.to(columns).view(-1, 1, 1, 1, 1) * applied(self.change)
        if self.start is not None:
            context = context + applied(self.start)
        return context.flatten(0, 1)


def full_precision(like: Tensor) -> torch.autocast:
    """The user's autocast is for the model, not for sums over the path."""
    return torch.autocast(like.device.type, enabled=False)


def integrate_layer(
    recording: Recording, path: Path, target: TargetType, nodes: Tensor, weights: Tensor, chunks: Chunks
) -> Tensor:
    """Mean gradient of F on the layer's path with respect to its attention, (B, H, Q, K); the rest recomputed."""
    state = path.state
    total = torch.zeros_like(path.context_change)
    for examples, steps in chunks.of(recording.row_bytes(state.index)):
        context = path.context(nodes[steps], examples).requires_grad_()
        rows = chunks.rows(examples, steps)
        output = recording.replay({state.index: _always(context)}, rows)
        (gradient,) = _gradients(recording, output, target, rows, [context])
        stepwise = gradient.to(total).unflatten(0, (steps.stop - steps.start, -1))
        total[examples] += (weights[steps].to(total).view(-1, 1, 1, 1, 1) * stepwise).sum(0)
        chunks.done(len(rows))
    with full_precision(total):
        return total.transpose(1, 2) @ state.values.to(total).transpose(2, 3)


def integrate_jointly(
    recording: Recording, paths: Sequence[Path], target: TargetType, nodes: Tensor, weights: Tensor, chunks: Chunks
) -> list[Tensor]:
    """Mean gradients, one (B, H, Q, K) a layer, with all layers scaled together and their matrices frozen."""
    totals = [torch.zeros_like(path.change) for path in paths]
    first = min(path.state.index for path in paths)
    for examples, steps in chunks.of(recording.row_bytes(first)):
        rows = chunks.rows(examples, steps)
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        substitutes = {path.state.index: _watched(path, nodes[steps], examples, seen) for path in paths}
        output = recording.replay(substitutes, rows)
        contexts = [seen[path.state.index][0] for path in paths]
        gradients = _gradients(recording, output, target, rows, contexts)
        for path, total, gradient in zip(paths, totals, gradients, strict=True):
            values = seen[path.state.index][1].to(total)
            by_step = (t.unflatten(0, (steps.stop - steps.start, -1)) for t in (gradient.to(total), values))
            with full_precision(total):
                total[examples] += torch.einsum("s,sbqhd,sbhkd->bhqk", weights[steps].to(total), *by_step)
        chunks.done(len(rows))
    return totals


def outputs_at_baseline(recording: Recording, paths: Sequence[Path], target: TargetType, chunks: Chunks) -> Tensor:
    """F with the attention of all these layers at their baselines, (B,)."""
    first = min(path.state.index for path in paths)
    scores = []
    with torch.no_grad():
        for examples, _ in chunks.of(recording.row_bytes(first), n_steps=1):
            substitutes = {path.state.index: _at_baseline(path, examples, alone=len(paths) == 1) for path in paths}
            rows = recording.forward.all_rows[examples]
            scores.append(recording.forward.scores(recording.replay(substitutes, rows), target, rows))
    return torch.cat(scores)


def _always(context: Tensor) -> Substitute:
    return lambda call: context


def _watched(path: Path, alphas: Tensor, examples: slice, seen: dict[int, tuple[Tensor, Tensor]]) -> Substitute:
    """Frozen attention on the path; the context and the values that it met are left in ``seen``."""

    def substitute(call: AttentionCall) -> Tensor:
        context = path.frozen_context(call, alphas, examples)
        # Below the first layer nothing has a gradient yet: the graph begins here.
        context = context if context.requires_grad else context.requires_grad_()
        seen[path.state.index] = (context, call.values().detach())
        return context

    return substitute


def _at_baseline(path: Path, examples: slice, *, alone: bool) -> Substitute:
    start = torch.zeros(1, dtype=torch.float64)
    if alone:
        return _always(path.context(start, examples))
    return lambda call: path.frozen_context(call, start, examples)


def _gradients(
    recording: Recording, output: Tensor, target: TargetType, rows: Tensor, contexts: Sequence[Tensor]
) -> tuple[Tensor, ...]:
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
    return found


class Chunks:
    """Cuts (steps x examples) evaluations into runs of the forward function that fit memory.

    Args:
        batch_size: Number of examples.
        n_steps: Number of nodes.
        most_rows: At most so many rows a run; None picks it by the memory that a row keeps for its gradient.
        device: Where the contexts lie.
        done: Called with the number of rows after each run.
    """

    def __init__(
        self, batch_size: int, n_steps: int, most_rows: int | None, device: torch.device, done: Callable[[int], object]
    ) -> None:
        self._batch_size, self._n_steps, self._device, self.done = batch_size, n_steps, device, done
        if most_rows is not None and most_rows < batch_size:
            warnings.warn(
                f"internal_batch_size={most_rows} is smaller than the number of examples: going on with {batch_size}.",
                stacklevel=4,
            )
        self._most_rows = None if most_rows is None else max(most_rows, batch_size)

    def of(self, row_bytes: int, n_steps: int | None = None) -> Iterator[tuple[slice, slice]]:
        """Slices of examples and of steps."""
        most = self._most_rows or max(1, self._budget() // max(row_bytes, 1))
        width = min(self._batch_size, most)
        length, n_steps = max(1, most // width), n_steps or self._n_steps
        for example in range(0, self._batch_size, width):
            for step in range(0, n_steps, length):
                yield (
                    slice(example, min(example + width, self._batch_size)),
                    slice(step, min(step + length, n_steps)),
                )

    def rows(self, examples: slice, steps: slice) -> Tensor:
        """Indices of the examples, once for each step: step-major."""
        return torch.arange(examples.start, examples.stop).repeat(steps.stop - steps.start)

    def _budget(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0] * _GPU_SHARE)
        return _CPU_BYTES
