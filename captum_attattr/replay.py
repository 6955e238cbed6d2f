"""One clean pass recorded, and the rest of it replayed from any attention layer with another context.

On the path of a layer nothing that ran before it changes. So the clean pass notes, at each attention call,
which module calls have already ended (the embeddings, the blocks below, the layer's own query, key and value).
A replay runs the whole forward function again, but those modules hand back the outputs that they had, and
the attention calls that are asked to put another context in place. No model family is known by name.

Whether that gives the model's own output is checked before it is trusted, for each batch and for each layer, on rows
that would tell if they met or changed places (:mod:`captum_attattr.probes`). Where it does not (state kept aside of the
hidden states), whole passes are made instead; where these are wrong as well, the forward function is refused.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, Result, intercept
from captum_attattr.findings import Finding, Findings
from captum_attattr.forward import Forward, take_rows
from captum_attattr.layer_state import LayerState, layer_state
from captum_attattr.module_calls import EndedCall, ModuleCalls, handing_back, refuse_dropout
from captum_attattr.module_state import ModuleState
from captum_attattr.rows_read import OnlyRows, with_rows_only
from captum_attattr.trials import Substitute, Trials, always

__all__ = ["Recording", "Substitute", "always"]


class Recording:
    """A clean pass of a forward function, with what is needed to replay it.

    Args:
        forward: The forward function with one batch of arguments.
        layers: The attention layers to record; one given n times stands for its first n calls.
        findings: What earlier recordings of the same function found out; added to.

    Attributes:
        output: The clean output.
        states: One :class:`LayerState` per layer, in the order of ``layers``.

    Raises:
        ValueError: A layer is not reached by the forward function, or is run more often than it is listed; the
            model drops out at random; a sequence is all padding. On a replay: examples of a batch meet, or change
            places.
        UnsupportedModelError: The probabilities do not explain what the layer computes.
    """

    def __init__(self, forward: Forward, layers: Sequence[nn.Module], findings: Findings | None = None) -> None:
        self.forward = forward
        self._layers = list(layers)
        self._ended: dict[int, list[EndedCall]] = {}
        wanted: dict[nn.Module, list[LayerState]] = {layer: [] for layer in layers}
        self._at_start: list[ModuleState] = []
        modules = ModuleCalls(lambda root: self._at_start.append(ModuleState([root])))
        owner = threading.get_ident()
        places = itertools.count()

        def record(call: AttentionCall) -> Result:
            if threading.get_ident() != owner:
                return call.proceed()
            refuse_dropout(float(call.options.get("dropout") or 0.0))
            result = call.proceed()
            self._last, self._last_context = next(places), result[0]
            self._last_ended = modules.ended()
            if call.module in wanted:
                wanted[call.module].append(layer_state(call, result[0], self._last))
                self._ended[self._last] = self._last_ended
            return result

        try:
            with torch.no_grad(), modules.following(), intercept(self._layers, record):
                self.output = forward()
        finally:
            self._keeps_state = self.restore()
        self.roots = modules.roots
        self.states = _in_order_of(self._layers, wanted)
        self._ended.setdefault(self._last, self._last_ended)
        self._trials = Trials(forward, self.output, self.states, self.roots, self._last, self._last_context, self._run)
        with self._state_kept():
            self._rows_read, self._in_place = self._trials.find_rows_read()
        circumstances = (tuple(map(id, modules.begun)), forward.batch_size == 1, str(self._rows_read), self._in_place)
        self._findings = (findings or Findings()).of(forward.function, circumstances)

    def replay(self, substitutes: Mapping[int, Substitute], rows: Tensor) -> Tensor:
        """The forward function's output for ``rows`` of the batch, with some attention calls' contexts replaced.

        Args:
            substitutes: By place among the attention calls, what makes the context there.
            rows: Indices of examples, with repetition.
        """
        self.row_bytes(min(substitutes))
        with self._state_kept() if self._keeps_state else nullcontext():
            return self._run(substitutes, rows, self._rows_read)

    def restore(self) -> bool:
        """Put back what modules keep (:class:`ModuleState`) as it was before the clean pass; whether it had changed."""
        changed = [state.restore() for state in self._at_start]
        return any(changed)

    @contextmanager
    def _state_kept(self) -> Iterator[None]:
        states = ModuleState(self.roots)
        try:
            yield
        finally:
            self._keeps_state = states.restore() or self._keeps_state

    def row_bytes(self, first: int) -> int:
        """Memory that one row of a replay from attention call ``first`` keeps for its gradient."""
        if first not in self._findings.layers:
            with self._state_kept():
                self._findings.layers[first] = self._check(first)
        found = self._findings.layers[first]
        if found.whole:
            self._ended[first] = []
        if not found.narrowed:
            self._rows_read = None
        return found.row_bytes(self._last_context.shape[1])

    def _run(self, substitutes: Mapping[int, Substitute], rows: Tensor, rows_read: slice | None) -> Tensor:
        first = min(substitutes)
        ended = self._ended[first]
        places = itertools.count(first if ended else 0)
        pick = partial(take_rows, rows=rows, batch_size=self.forward.batch_size)
        length = self._last_context.shape[1]
        only = OnlyRows(rows_read, length) if rows_read is not None else None
        owner = threading.get_ident()

        def substitute(call: AttentionCall) -> Result:
            if threading.get_ident() != owner:
                return call.proceed()
            place = next(places)
            if place in substitutes:
                result: Result = (substitutes[place](call), None)
            elif place == self._last and only is not None:
                result = (with_rows_only(call.narrowed(only.rows).proceed()[0], only.rows, length, 0.0), None)
            else:
                result = call.proceed()
            if place == self._last and only is not None:
                only.begin()
            return result

        with handing_back(ended, pick), intercept(self._layers, substitute), only or nullcontext():
            return self.forward(rows)

    def _check(self, first: int) -> Finding:
        """Make sure that replays treat each row as the model does; measure the memory of a row."""
        length = self._last_context.shape[1]
        state = next(state for state in self.states if state.index == first)
        if self._ended[first]:
            probe = self._trials.probe(first, self._in_place)
            for narrowed in (True, False) if self._rows_read is not None else (False,):
                agrees, size = self._trials.agrees(state, probe, self._rows_read)
                if agrees and self._are_rows_apart():
                    return Finding(size, length, whole=False, narrowed=narrowed)
                self._rows_read = None
        replayed, self._ended[first] = self._ended[first], []
        size = self._trials.whole_pass(state)
        if replayed:
            warnings.warn(
                f"Replaying from {state.name} does not give the model's own output, so whole passes are made: "
                "the same result, more slowly.",
                stacklevel=2,
            )
        return Finding(size, length, whole=True, narrowed=False)

    def _are_rows_apart(self) -> bool:
        place = self._rows_read is not None
        if place not in self._findings.rows_apart:
            self._findings.rows_apart[place] = self._trials.rows_apart(self._rows_read)
        return self._findings.rows_apart[place]


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
