"""The output as a function of attention: the function whose gradients the method integrates, to be called directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.replay import Recording, Substitute


class AttentionFunction:
    """F(A): the forward function's output with given attention probabilities in some layers.

    The other layers compute their attention as usual. Captum's ``infidelity`` needs this function, and so does any
    other test of attributions by perturbation; it is differentiable with respect to the attention.

    Args:
        forward_func, inputs, additional_forward_args: As for :class:`SelfAttentionAttribution`.
        layers: The attention layers whose probabilities are given.

    Attributes:
        attention: The probabilities that the model used, one (batch, head, query, key) a layer.
        examples: Indices of the examples, (batch,). Pass them as ``additional_forward_args`` to anything that repeats
            rows, as Captum's metrics and methods do: they tell which example each row belongs to.

    Example:
        >>> from captum.metrics import infidelity
        >>> from captum_attattr import SelfAttentionAttribution, attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> ids = tokenizer("A warm, funny film.", return_tensors="pt")["input_ids"]
        >>> method = SelfAttentionAttribution(model, attention_layers(model)[2], multiply_by_inputs=False)
        >>> function = method.attention_function(ids)
        >>> def weaken(attention, *_):
        ...     return 0.1 * attention, 0.9 * attention  # the change, and the attention after it
        >>> # infidelity multiplies by the change itself, so it takes mean gradients, not attributions
        >>> score = infidelity(function, weaken, function.attention[0], method.attribute(ids, target=1),
        ...                    additional_forward_args=function.examples, target=1)
        >>> score.shape
        torch.Size([1])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layers: Sequence[nn.Module],
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: Any = None,
    ) -> None:
        self._recording = Recording(Forward(forward_func, inputs, additional_forward_args), Listed(layers))
        self.attention: tuple[Tensor, ...] = tuple(state.probabilities() for state in self._recording.states)
        self.examples: Tensor = torch.arange(self._recording.forward.batch_size, device="cpu")

    def __call__(self, *attention: Tensor) -> Tensor:
        """The output for the given attention, (rows, head, query, key) a layer.

        Args:
            *attention: One tensor a layer; then, unless the rows are the examples in order, the index of the example
                that each row belongs to, (rows,).
        """
        states = self._recording.states
        matrices, rest = attention[: len(states)], attention[len(states) :]
        rows = rest[0] if rest else self.examples
        if len(matrices) != len(states) or len(rest) > 1:
            raise ValueError(
                f"Got {len(attention)} tensors for {len(states)} layers: give one each, and after them at most the "
                "indices of the examples."
            )
        for matrix, state in zip(matrices, states, strict=True):
            expected = (len(rows), *state.shape[1:])
            if tuple(matrix.shape) != expected:
                raise ValueError(
                    f"Attention of shape {tuple(matrix.shape)} for {state.name}, expected {expected}. Where rows are "
                    "repeated, say which example each belongs to: additional_forward_args=function.examples."
                )
        substitutes = {state.index: _put_in(matrix) for state, matrix in zip(states, matrices, strict=True)}
        return self._recording.replay(self._recording.plan(min(substitutes)), substitutes, rows)


def _put_in(matrix: Tensor) -> Substitute:
    def substitute(call: AttentionCall) -> Tensor:
        return (matrix.to(call.like.dtype) @ call.values()).transpose(1, 2)

    return substitute
