"""One clean pass recorded, and the rest of it replayed from any attention layer with another context.

On the path of a layer nothing that ran before it changes. So the clean pass notes, at each attention call,
which module calls have already ended (the embeddings, the blocks below, the layer's own query, key and value).
A replay runs the whole forward function again, but those modules hand back the outputs that they had, and
the attention calls that are asked to put another context in place. No model family is known by name.

Whether that gives the model's own output is checked before it is trusted, once per layer on one row
of the batch; where it does not (state kept aside of the hidden states), whole passes are made instead.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, Result, UnsupportedModelError, intercept
from captum_attattr.forward import Forward, take_rows
from captum_attattr.module_calls import EndedCall, ModuleCalls, handing_back, refuse_dropout

Substitute = Callable[[AttentionCall], Tensor]
"""Makes the context (rows, query, head, dim) to use in place of an attention call's own."""


@dataclass(frozen=True)
class LayerState:
    """What one attention layer did in the clean pass. B examples, H heads, Q queries, K keys, D dimensions."""

    index: int
    """Its place among all attention calls of the pass."""
    name: str
    probabilities: Tensor
    """(B, H, Q, K)."""
    values: Tensor
    """(B, H, K, D), grouped heads repeated."""
    context: Tensor
    """(B, Q, H, D)."""
    pairs: Tensor
    """(B, 1 or H, Q, K), False where the mask forbids the pair or one of the two is padding."""


class Recording:
    """A clean pass of a forward function, with what is needed to replay it.

    Args:
        forward: The forward function with one batch of arguments.
        layers: The attention layers to record; one given n times stands for its first n calls.

    Attributes:
        output: The clean output.
        states: One :class:`LayerState` per layer, in the order of ``layers``.

    Raises:
        ValueError: A layer is not reached by the forward function, or is run more often than it is listed; the
            model drops out at random; a sequence is all padding.
        UnsupportedModelError: The probabilities do not explain what the layer computes.
    """

    def __init__(self, forward: Forward, layers: Sequence[nn.Module]) -> None:
        self.forward = forward
        self._layers = list(layers)
        self._ended: list[list[EndedCall]] = []
        self._row_bytes: dict[int, int] = {}
        wanted: dict[nn.Module, list[LayerState]] = {layer: [] for layer in layers}
        modules = ModuleCalls()
        owner = threading.get_ident()

        def record(call: AttentionCall) -> Result:
            if threading.get_ident() != owner:
                return call.proceed()
            refuse_dropout(float(call.options.get("dropout") or 0.0))
            result = call.proceed()
            if call.module in wanted:
                wanted[call.module].append(_state(call, result[0], len(self._ended)))
            self._ended.append(modules.ended() if call.module in wanted else [])
            return result

        with torch.no_grad(), modules.following(), intercept(self._layers, record):
            self.output = forward()
        self.roots = modules.roots
        self.states = _in_order_of(self._layers, wanted)

    def replay(self, substitutes: Mapping[int, Substitute], rows: Tensor) -> Tensor:
        """The forward function's output for ``rows`` of the batch, with some attention calls' contexts replaced.

        Args:
            substitutes: By place among the attention calls, what makes the context there.
            rows: Indices of examples, with repetition.
        """
        first = min(substitutes)
        if first not in self._row_bytes:
            self._row_bytes[first] = self._check(first)
        return self._run(substitutes, rows)

    def row_bytes(self, first: int) -> int:
        """Memory that one row of a replay from attention call ``first`` keeps for its gradient."""
        if first not in self._row_bytes:
            self._row_bytes[first] = self._check(first)
        return self._row_bytes[first]

    def _run(self, substitutes: Mapping[int, Substitute], rows: Tensor) -> Tensor:
        first = min(substitutes)
        ended = self._ended[first]
        places = itertools.count(first if ended else 0)
        pick = partial(take_rows, rows=rows, batch_size=self.forward.batch_size)

        owner = threading.get_ident()

        def substitute(call: AttentionCall) -> Result:
            if threading.get_ident() != owner:
                return call.proceed()
            place = next(places)
            return (substitutes[place](call), None) if place in substitutes else call.proceed()

        with handing_back(ended, pick), intercept(self._layers, substitute):
            return self.forward(rows)

    def _check(self, first: int) -> int:
        """Make sure that a replay without a change gives the clean output; measure the memory of a row."""
        # One row; two from the last layer of a batch of one, where a first dimension of 1 may be something else than
        # the batch: whatever else is handed back is handed back there, too, and that replay is short.
        is_last = first == max(state.index for state in self.states)
        count = 2 if is_last and self.forward.batch_size == 1 and self.output.dim() > 0 else 1
        rows = torch.zeros(count, dtype=torch.long)
        state = next(state for state in self.states if state.index == first)
        clean = take_rows(self.output, rows, self.forward.batch_size)

        def agrees() -> bool:
            seen: list[bool] = []
            watched = {s.index: _compared(s, rows, seen) for s in self.states if s.index > first}
            output = self._run({first: lambda call: context, **watched}, rows).detach()
            same = output.shape == clean.shape and _close(output, clean, 2 / 3, context.dtype)
            return same and all(seen)

        with torch.enable_grad(), _saved_bytes(self.roots) as saved:
            context = state.context[:1].repeat(count, 1, 1, 1).requires_grad_()
            try:
                trusted = agrees()
            except Exception:  # whatever a model does with outputs handed back: whole passes are always right
                if not self._ended[first]:
                    raise
                trusted = False
            if not trusted and self._ended[first]:
                self._ended[first] = []
                warnings.warn(
                    f"Replaying from {state.name} does not give the model's own output, so whole passes are made: "
                    "the same result, more slowly.",
                    stacklevel=2,
                )
                saved.clear()
                trusted = agrees()
        if not trusted:
            raise ValueError(
                "The forward function gave two different outputs for the same input, so no difference between "
                "outputs can be attributed. Switch off what is random in it, or what one example gets from the "
                "other examples of its batch; is the model in eval mode?"
            )
        return sum(saved.values()) // count


def _state(call: AttentionCall, context: Tensor, index: int) -> LayerState:
    name = type(call.module).__name__
    pairs = call.pairs()
    if not pairs.flatten(1).any(1).all():
        example = int(pairs.flatten(1).any(1).logical_not().nonzero()[0])
        raise ValueError(f"Example {example} of the batch is all padding: no token of it may attend to any other.")
    probabilities, values = call.probabilities(), call.values()
    # 1 only for queries that attend to something: what the model computes for padding is of no concern.
    attends = pairs.any(-1).transpose(1, 2).unsqueeze(-1)
    with torch.autocast(context.device.type, enabled=False):
        own = (probabilities.float() @ values.float()).transpose(1, 2).to(context.dtype)
    own, used = torch.where(attends, own, 0), torch.where(attends, context, 0)
    if not bool(torch.isfinite(used).all()):
        raise ValueError(f"{name} computes NaN or infinite values: there is nothing to attribute.")
    if not _close(own, used, 1 / 2):
        raise UnsupportedModelError(
            f"The attention probabilities of {name} do not reproduce what it computes with "
            f"attn_implementation={call.implementation!r}. Load the model with attn_implementation='eager'."
        )
    return LayerState(index, name, probabilities, values, context, pairs)


def _compared(state: LayerState, rows: Tensor, seen: list[bool]) -> Substitute:
    """Leaves the layer as it is, and notes whether it computes what it did in the clean pass."""

    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        attends = state.pairs.any(-1).transpose(1, 2).unsqueeze(-1)
        ours, clean = (torch.where(attends[rows], c, 0) for c in (context.detach(), state.context[rows]))
        seen.append(_close(ours, clean, 2 / 3))
        return context

    return substitute


def _close(one: Tensor, other: Tensor, digits: float, computed_in: torch.dtype = torch.float32) -> bool:
    """Agreement to this part of the digits of the data type: rounding passes, another computation does not.

    Of float32 at most: many families take the softmax or the norms in it, whatever the model's own type.
    """
    if not other.is_floating_point():
        return torch.equal(one, other)
    error = max(torch.finfo(dtype).eps for dtype in (other.dtype, computed_in, torch.float32)) ** digits
    return torch.allclose(one, other, rtol=error, atol=error * float(other.abs().max()))


def _in_order_of(layers: Sequence[nn.Module], wanted: Mapping[nn.Module, list[LayerState]]) -> list[LayerState]:
    for layer, states in wanted.items():
        if not states:
            raise ValueError(
                f"The forward function never reached the attention of a given layer ({type(layer).__name__}). Is it a "
                "layer of the model that the forward function runs? attention_layers(model) lists them; models "
                "wrapped in DataParallel run copies of their layers: give the model itself."
            )
        if len(states) != sum(layer is other for other in layers):
            raise ValueError(
                f"{type(layer).__name__} runs {len(states)} times in one pass (shared weights) and is listed "
                f"{sum(layer is other for other in layers)} times: list it once for each of its calls, "
                f"layer=[attention] * {len(states)}."
            )
    queues = {layer: iter(states) for layer, states in wanted.items()}
    return [next(queues[layer]) for layer in layers]


@contextmanager
def without_parameter_gradients(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Parameters need no gradient inside the block; each is set back to what it was."""
    parameters = [p for root in roots for p in root.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _saved_bytes(roots: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """Sizes of what autograd keeps inside the block, by storage, the model's own weights left out."""
    weights = {p.untyped_storage().data_ptr() for root in roots for p in root.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
