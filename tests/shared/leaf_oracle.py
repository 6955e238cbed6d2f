"""Attributions by a softmax that is replaced by a leaf of the graph: for any model, with none of the package's engine.

A mode of torch counts the softmaxes over the last axis, and calls of scaled_dot_product_attention, which it writes out.
The n-th one's result passes through the test's function before anything else is computed with it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_BY_PARTS = types.FunctionType(  # torch asks in it whether a mode is on, and would call it again and again
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    "by_parts",
    F.multi_head_attention_forward.__defaults__,
    F.multi_head_attention_forward.__closure__,
)
_BY_PARTS.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


class Softmaxes(TorchFunctionMode):
    """Inside, the n-th softmax gives ``replace(n, matrix)``."""

    def __init__(self, replace: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.replace, self.count = replace, 0

    def __torch_function__(self, func, _, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _BY_PARTS(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._written_out(*args, **kwargs)
        result = func(*args, **kwargs)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        is_matrix = (
            isinstance(result, Tensor) and result.dim() > 2 and type(dim) is int and dim in (-1, result.dim() - 1)
        )
        return self._next(result) if name in ("softmax", "_softmax") and is_matrix else result

    def _next(self, matrix: Tensor) -> Tensor:
        self.count += 1
        return self.replace(self.count - 1, matrix)

    def _written_out(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        groups = query.shape[-3] // key.shape[-3] if query.dim() > 3 else 1
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None:
            is_choice = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if is_choice else scores + attn_mask
        return self._next(scores.softmax(-1).nan_to_num()) @ value


def clean_softmaxes(forward: Callable[[], Tensor]) -> list[Tensor]:
    found: list[Tensor] = []

    def note(number: int, matrix: Tensor) -> Tensor:
        found.append(matrix.detach())
        return matrix

    with torch.no_grad(), Softmaxes(note):
        forward()
    return found


def have_gradients(forward: Callable[[], Tensor]) -> bool:
    """Whether gradients pass through all softmaxes as torch computes them.

    One inside a function with a backward pass of its own (``torch.autograd.Function``) cannot be cut off from its
    scores here.
    """
    enabled: list[bool] = []

    def note(number: int, matrix: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return matrix

    with torch.enable_grad(), Softmaxes(note):
        forward()
    return all(enabled)


def by_leaves(
    forward: Callable[[], Tensor], clean: Sequence[Tensor], numbers: Sequence[int], n_steps: int
) -> list[Tensor]:
    """A * sum_k w_k dF(a_k A)/dA for these softmaxes scaled together; ``forward`` gives F, (batch,)."""
    points, masses = np.polynomial.legendre.leggauss(n_steps)
    totals = [torch.zeros_like(clean[number]) for number in numbers]
    for alpha, mass in zip((points + 1) / 2, masses / 2):
        leaves = {number: (float(alpha) * clean[number]).requires_grad_() for number in numbers}
        with Softmaxes(leaves.get):
            value = forward().sum()
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for total, gradient in zip(totals, gradients):
            if gradient is not None:
                total += float(mass) * gradient
    return [clean[number] * total for number, total in zip(numbers, totals)]


def with_head_zeroed(forward: Callable[[], Tensor], zeroed: int, shape: Sequence[int], head: int) -> Tensor:
    """F with one head's matrix set to zero in one softmax, whose result has this shape (..., head, query, key)."""

    def replace(number: int, matrix: Tensor) -> Tensor:
        if number != zeroed:
            return matrix
        ours = matrix.reshape(shape).clone()
        ours[..., head, :, :] = 0
        return ours.reshape(matrix.shape)

    with torch.no_grad(), Softmaxes(replace):
        return forward()
