"""Removal of attention: single edges or whole heads, of one layer or of several at once."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum._utils.typing import TargetType
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.layer_state import LayerState
from captum_attattr.engine.replay import Recording, Substitute
from captum_attattr.faithfulness.removal import Done, Removal, Scores, expect_shape

_without_gradients = with_gradients(False, leave_inference=True)


class _AttentionRemoval(Removal):
    """The common part of the removals of edges and heads: the recorded pass, and all layers' features side by side."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | Sequence[nn.Module],
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: Any = None,
        *,
        target: TargetType = None,
    ) -> None:
        self._listed = not isinstance(layer, nn.Module)
        layers = [layer] if isinstance(layer, nn.Module) else list(layer)
        forward = Forward(forward_func, inputs, additional_forward_args)
        self._recording = _without_gradients(Recording)(forward, Listed(layers))
        self._target = target
        # Layers may be on several devices; the mask of removable features is on the first layer's.
        device = self._states[0].context.device
        self.removable: Tensor = torch.cat([self._features(state).to(device) for state in self._states], 1)

    @property
    def _states(self) -> list[LayerState]:
        return self._recording.states

    def within(self, number: int) -> _AttentionRemoval:
        """Return a removal of the features of one layer only, the one at index ``number`` of the given layers."""
        widths = self._widths()
        if not 0 <= number < len(widths):
            raise ValueError(f"Layer {number} of {len(widths)} layers: give 0 to {len(widths) - 1}.")
        start = sum(widths[:number])
        inside = torch.zeros_like(self.removable)
        inside[:, start : start + widths[number]] = True
        narrowed = copy.copy(self)
        narrowed.removable = self.removable & inside
        return narrowed

    @_without_gradients
    def outputs(self, kept: Tensor, examples: Tensor, batch_size: int = 64, done: Done = id) -> Tensor:
        """Compute F of each row; see :meth:`Removal.outputs`. Layers below the first removed feature do not run."""
        results = []
        for some, rows in zip(kept.split(batch_size), examples.cpu().split(batch_size), strict=True):
            output = self._output(some, rows)
            results.append(self._recording.forward.scores(output, self._target, rows))
            done(len(rows))
        return torch.cat(results)

    def _output(self, kept: Tensor, rows: Tensor) -> Tensor:
        substitutes = {}
        for state, some in zip(self._states, kept.split(self._widths(), 1), strict=True):
            if not bool(some.all()):
                substitutes[state.index] = self._without(state, some.to(state.context.device))
        if not substitutes:
            clean = self._recording.output
            return clean.expand(len(rows)) if clean.dim() == 0 else clean[rows.to(clean.device)]
        return self._recording.replay(self._recording.plan(min(substitutes)), substitutes, rows)

    @abstractmethod
    def _widths(self) -> list[int]:
        """Return the number of features of each layer."""

    @abstractmethod
    def _features(self, state: LayerState) -> Tensor:
        """Return which of the layer's features may be removed, (B, features of the layer)."""

    @abstractmethod
    def _without(self, state: LayerState, kept: Tensor) -> Substitute:
        """Return a substitute that makes the layer's context from the ``kept`` features only."""


class EdgeRemoval(_AttentionRemoval):
    r"""F with single attention edges cut: query i of a head no longer looks at key j.

    .. math:: \tilde A_{ij} = k_{ij} A_{ij}, \qquad k_{ij} \in \{0, 1\}

    A is the attention that the layer computes from its input, so it changes in the layers above a cut. By default the
    rest of a row is *not* scaled up to its former sum, since this would change the remaining edges: a cut sets one edge
    to zero, as the baseline of the method's path does with all edges. ``renormalize=True`` scales the rest, which is
    the same as forbidding the pair before the softmax; a row without any edge stays zero.

    All pairs of real tokens may be cut, also those with special tokens.

    Args:
        forward_func, layer, inputs, additional_forward_args: As for :class:`SelfAttentionAttribution`.
        target: The output, in any of Captum's forms.
        renormalize: Scale the rest of a row to the row's former sum.

    Scores are (batch, head, query, key), for a list of layers a list of these, as ``attribute`` returns them.

    Raises:
        ValueError, UnsupportedModelError: As :meth:`SelfAttentionAttribution.attribute`.

    Example:
        >>> from captum_attattr import SelfAttentionAttribution, attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.faithfulness import EdgeRemoval, deletion_gap
        >>> model, tokenizer = load_demo()
        >>> ids = tokenizer("A warm, funny film.", return_tensors="pt")["input_ids"]
        >>> forward = lambda ids: model(ids).logits.softmax(-1)
        >>> attributions = SelfAttentionAttribution(forward, attention_layers(model)).attribute(ids, target=1)
        >>> removal = EdgeRemoval(forward, attention_layers(model), ids, target=1)
        >>> bool(deletion_gap(removal, attributions) > 0)
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | Sequence[nn.Module],
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: Any = None,
        *,
        target: TargetType = None,
        renormalize: bool = False,
    ) -> None:
        self._renormalize = renormalize
        super().__init__(forward_func, layer, inputs, additional_forward_args, target=target)

    def flatten(self, scores: Scores) -> Tensor:
        """Flatten a tensor (batch, head, query, key), or a list of them, one a layer."""
        given = [scores] if isinstance(scores, Tensor) and not self._listed else list(scores)
        if len(given) != len(self._states):
            raise ValueError(f"Got scores of {len(given)} layers for {len(self._states)} layers: give one tensor each.")
        axes = "(batch, head, query, key)"
        checked = [expect_shape(g, _shape(state), axes) for g, state in zip(given, self._states, strict=True)]
        return torch.cat([tensor.flatten(1) for tensor in checked], 1)

    def unflatten(self, values: Tensor) -> Tensor | list[Tensor]:
        """Invert :meth:`flatten`."""
        parts = values.split(self._widths(), 1)
        shaped = [part.unflatten(1, _shape(state)[1:]) for part, state in zip(parts, self._states, strict=True)]
        return shaped if self._listed else shaped[0]

    def _widths(self) -> list[int]:
        return [_shape(state)[1:].numel() for state in self._states]

    def _features(self, state: LayerState) -> Tensor:
        return state.call.pairs_of_tokens().expand(_shape(state)).flatten(1)

    def _without(self, state: LayerState, kept: Tensor) -> Substitute:
        kept = kept.unflatten(1, _shape(state)[1:])

        def substitute(call: AttentionCall) -> Tensor:
            attention = call.probabilities()
            left = attention * kept
            if self._renormalize:
                sums = left.sum(-1, keepdim=True)
                left = torch.where(sums > 0, left * (attention.sum(-1, keepdim=True) / sums), 0)
            return (left.to(call.like.dtype) @ call.values()).transpose(1, 2)

        return substitute


class HeadRemoval(_AttentionRemoval):
    """F with whole heads removed: their contexts are zero, for all queries.

    Args:
        forward_func, layer, inputs, additional_forward_args: As for :class:`SelfAttentionAttribution`.
        target: The output, in any of Captum's forms.

    Scores are (layer, batch, head), as :func:`head_scores` returns them; for one layer (batch, head).

    Example:
        >>> from captum_attattr import attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.faithfulness import HeadRemoval, leave_one_out
        >>> model, tokenizer = load_demo()
        >>> ids = tokenizer("A warm, funny film.", return_tensors="pt")["input_ids"]
        >>> leave_one_out(HeadRemoval(model, attention_layers(model), ids, target=1)).shape
        torch.Size([6, 1, 12])
    """

    def flatten(self, scores: Scores) -> Tensor:
        """Flatten (layer, batch, head), or (batch, head) for one layer."""
        batch = self._recording.forward.batch_size
        stacked = scores if isinstance(scores, Tensor) else torch.stack(list(scores))
        if not self._listed:
            return expect_shape(stacked, (batch, self._widths()[0]), "(batch, head)")
        expect_shape(stacked, (len(self._states), batch, self._widths()[0]), "(layer, batch, head)")
        return stacked.transpose(0, 1).flatten(1)

    def unflatten(self, values: Tensor) -> Tensor:
        """Invert :meth:`flatten`."""
        return values.unflatten(1, (len(self._states), -1)).transpose(0, 1) if self._listed else values

    def _widths(self) -> list[int]:
        return [_shape(state)[1] for state in self._states]

    def _features(self, state: LayerState) -> Tensor:
        batch, heads = _shape(state)[:2]
        return torch.ones(batch, heads, dtype=torch.bool, device=state.context.device)

    def _without(self, state: LayerState, kept: Tensor) -> Substitute:
        def substitute(call: AttentionCall) -> Tensor:
            context, _ = call.proceed()
            return context * kept[:, None, :, None]

        return substitute


def _shape(state: LayerState) -> torch.Size:
    """Return the shape (batch, head, query, key) of a layer's attention."""
    return torch.Size(state.shape)
