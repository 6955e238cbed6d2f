"""The baseline A0 of each layer's attention, where a path begins, in each of the forms in which it may be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_attattr.engine.layer_state import LayerState

AttentionBaseline = None | float | str | Tensor
AttentionBaselines = AttentionBaseline | Sequence[AttentionBaseline]
Start = Callable[[slice], Tensor]
"""A0 for a range of queries, in a shape that broadcasts to (batch, head, queries, key)."""


def attention_baseline(given: AttentionBaselines, states: Sequence[LayerState], listed: bool) -> list[Start | None]:
    """Return A0 of each layer; None stands for no attention at all.

    Args:
        given: None, a number, "uniform" or a tensor for every layer, or a list of these, one a layer.
        states: The layers' clean states.
        listed: Whether the layers were given as a list.
    """
    if not isinstance(given, (list, tuple)):
        return [_of_layer(given, state) for state in states]
    if not listed or len(given) != len(states):
        raise ValueError(f"attention_baselines is a list of {len(given)} for {len(states)} layer(s): give one each.")
    return [_of_layer(one, state) for one, state in zip(given, states, strict=True)]


def _of_layer(given: Any, state: LayerState) -> Start | None:
    device = state.context.device
    if given is None:
        return None
    if isinstance(given, str):
        if given != "uniform":
            raise ValueError(f"attention_baselines {given!r} is not known: 'uniform', a number or a tensor.")
        return partial(_uniform, state)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        number = torch.full((1, 1, 1, 1), float(given), dtype=torch.float64, device=device)
        return lambda queries: number
    if not isinstance(given, Tensor):
        raise TypeError(
            f"attention_baselines must be None, a number, 'uniform' or a tensor, got {type(given).__name__}."
        )
    if given.is_complex():
        raise TypeError("attention_baselines must be real numbers, got a complex tensor.")
    if not _broadcasts(given.shape, state.shape):
        raise ValueError(
            f"attention_baselines of shape {tuple(given.shape)} does not broadcast to the attention of {state.name}, "
            f"(batch, head, query, key) = {state.shape}."
        )
    matrix = given.detach().to(device)
    matrix = matrix.reshape((1,) * (4 - matrix.dim()) + matrix.shape)
    has_queries = matrix.shape[-2] > 1
    return lambda queries: matrix[..., queries, :] if has_queries else matrix


def _uniform(state: LayerState, queries: slice) -> Tensor:
    attended = state.pairs(queries).to(torch.float64)
    return attended / attended.sum(-1, keepdim=True).clamp(min=1)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    return len(shape) <= len(to) and all(
        size in (1, wide) for size, wide in zip(reversed(shape), reversed(to), strict=False)
    )


def starts_of(baselines: Sequence[LayerState], states: Sequence[LayerState]) -> list[Start | None]:
    """Return A0 of each layer where it is what the layer does at other inputs.

    Raises:
        ValueError: The model sees another number of tokens there.
    """
    for baseline, state in zip(baselines, states, strict=True):
        if baseline.shape != state.shape:
            raise ValueError(
                f"At the baselines the attention of {state.name} is (batch, head, query, key) = {baseline.shape}, at "
                f"the inputs {state.shape}: give baselines at which the model sees as many tokens."
            )
    return [baseline.probabilities for baseline in baselines]


def input_baselines(given: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return Captum's baselines (a number or a tensor for each input) as tensors of the inputs' shapes.

    Raises:
        ValueError: There are more or fewer baselines than inputs, or a shape is neither the input's nor that of one
            example.
        TypeError: A baseline is neither a number nor a tensor.
    """
    baselines = given if isinstance(given, tuple) else (given,)
    if len(baselines) != len(inputs):
        raise ValueError(f"Got {len(baselines)} baselines for {len(inputs)} inputs: give one each.")
    return tuple(_of_input(baseline, value) for baseline, value in zip(baselines, inputs, strict=True))


def _of_input(baseline: Any, value: Tensor) -> Tensor:
    if isinstance(baseline, (int, float)) and not isinstance(baseline, bool):
        return torch.full_like(value, baseline)
    if not isinstance(baseline, Tensor):
        raise TypeError(f"A baseline must be a number or a tensor, got {type(baseline).__name__}.")
    if baseline.shape[1:] != value.shape[1:] or baseline.shape[0] not in (1, value.shape[0]):
        raise ValueError(
            f"A baseline of shape {tuple(baseline.shape)} does not fit inputs of shape {tuple(value.shape)}: give the "
            "same shape, one example, or a number."
        )
    return baseline.expand_as(value)
