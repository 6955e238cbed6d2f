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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, Result, intercept
from captum_attattr.findings import Finding, Findings
from captum_attattr.forward import Forward, take_rows
from captum_attattr.gradients import refuse_without_derivative, saved_bytes
from captum_attattr.layer_state import LayerState, agree, layer_state
from captum_attattr.memory import is_out_of_memory
from captum_attattr.module_calls import EndedCall, ModuleCalls, handing_back, refuse_dropout
from captum_attattr.module_state import ModuleState
from captum_attattr.probes import Probe, alone, apart, beside_another, moved
from captum_attattr.rows_read import CANDIDATES, OnlyRows, Shadows, with_rows_only

Substitute = Callable[[AttentionCall], Tensor]
"""Makes the context (rows, query, head, dim) to use in place of an attention call's own."""


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
        self._in_place = True
        self._rows_read: slice | None = None
        with self._state_kept():
            self._rows_read = self._find_rows_read()
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

    def _find_rows_read(self) -> slice | None:
        """Rows of the sequence, if they are few, such that no others are read after the last attention.

        Found on examples in other places than before: whether the rows of the batch stay in theirs is noted, too.
        """
        if not bool(torch.isfinite(self.output).all()):
            return None
        probe, length = moved(self.forward.batch_size), self._last_context.shape[1]
        context = probe.contexts(self._last_context)
        for candidate in CANDIDATES if length > 1 else ():
            shadow = with_rows_only(context[:, candidate], candidate, length, float("nan"))
            self._in_place, suffices = self._with_shadow(probe, context, shadow)
            if suffices or not self._in_place:
                return candidate if suffices else None
        self._in_place, _ = self._with_shadow(probe, context, context)
        return None

    def _with_shadow(self, probe: Probe, context: Tensor, shadow: Tensor) -> tuple[bool, bool | None]:
        """Whether this last context gives the clean output, and whether its shadow gives the same (None: not known)."""
        shadows = Shadows(context, shadow)
        try:
            with torch.no_grad(), shadows:
                output = self._run({self._last: always(context)}, probe.rows, self._rows_read)
        except Exception as error:  # whatever a model does with outputs handed back
            if is_out_of_memory(error):
                raise
            return False, None
        if not self._is_clean(output, probe):
            return False, None
        other = shadows.of(output)
        if other is None or output.dim() == 0:
            return True, None if other is None else _close(other, output)
        same = probe.same.to(output.device)
        return True, _close(other[same], output[same])

    def _is_clean(self, output: Tensor | None, probe: Probe) -> bool:
        """Whether the rows that the probe leaves alone have the clean output."""
        clean = take_rows(self.output, probe.rows, self.forward.batch_size)
        if output is None or output.shape != clean.shape:
            return False
        if clean.dim() > 0:
            same = probe.same.to(clean.device)
            output, clean = output.detach()[same], clean[same]
        return agree(output.detach(), clean, 2 / 3, self._last_context.dtype)

    def _rows_apart(self) -> bool:
        """Whether, after the last attention, what comes out of a row does not depend on the others."""
        if self.output.dim() == 0:
            return True
        probe = apart(self.forward.batch_size)
        context = probe.contexts(self._last_context)
        changed = probe.changed(self._last_context)
        same, are_apart = self._with_shadow(probe, context, changed)
        if are_apart is False and self._rows_read is None:
            raise _mixing()  # whatever was handed back: it comes after that
        if are_apart is None and same:
            # Shadows could not be followed: the model's modules have to see other contexts.
            return self._with_shadow(probe, changed, changed)[0]
        return bool(are_apart)

    def _check(self, first: int) -> Finding:
        """Make sure that replays treat each row as the model does; measure the memory of a row."""
        length = self._last_context.shape[1]
        state = next(state for state in self.states if state.index == first)
        if self._ended[first]:
            for narrowed in (True, False) if self._rows_read is not None else (False,):
                if self._found_apart():
                    agrees, size = self._agrees(state, self._probe(first))
                    if agrees:
                        return Finding(size, length, whole=False, narrowed=narrowed)
                self._rows_read = None
        replayed, self._ended[first] = self._ended[first], []
        size = self._whole_pass(state)
        if replayed:
            warnings.warn(
                f"Replaying from {state.name} does not give the model's own output, so whole passes are made: "
                "the same result, more slowly.",
                stacklevel=2,
            )
        return Finding(size, length, whole=True, narrowed=False)

    def _found_apart(self) -> bool:
        place = self._rows_read is not None
        if place not in self._findings.rows_apart:
            self._findings.rows_apart[place] = self._rows_apart()
        return self._findings.rows_apart[place]

    def _probe(self, first: int) -> Probe:
        """The first layer is tried out on more than the others: what meets in a layer above is seen from there."""
        batch_size = self.forward.batch_size
        if self.output.dim() == 0:
            return alone(batch_size)
        if not self._in_place:
            return apart(batch_size)
        lowest = min(state.index for state in self.states)
        return beside_another(batch_size) if first == lowest else alone(batch_size)

    def _agrees(self, state: LayerState, probe: Probe) -> tuple[bool, int]:
        """Whether a replay from this layer does with a probe as the model does; bytes that a row keeps."""
        try:
            return self._tried(state, probe, gradients=True)
        except Exception as error:
            if not is_out_of_memory(error):
                if self._ended[state.index]:  # whatever a model does with outputs handed back
                    return False, 0
                raise
            if len(probe.rows) == 1:
                raise
        # With what they keep for their gradients the rows did not fit, but perhaps one does.
        agrees, _ = self._tried(state, probe, gradients=False)
        agrees_alone, size = self._tried(state, alone(self.forward.batch_size), gradients=True)
        return agrees and agrees_alone, size

    def _tried(self, state: LayerState, probe: Probe, gradients: bool) -> tuple[bool, int]:
        seen: list[bool] = []
        watched = {other.index: _compared(other, probe, seen) for other in self.states if other.index > state.index}
        with torch.set_grad_enabled(gradients), saved_bytes(self.roots) as saved:
            context = probe.changed(state.context).requires_grad_(gradients)
            output = self._run({state.index: always(context), **watched}, probe.rows, self._rows_read)
            if gradients:
                refuse_without_derivative(output)
        return self._is_clean(output, probe) and all(seen), sum(saved.values()) // len(probe.rows)

    def _whole_pass(self, state: LayerState) -> int:
        """Make sure that whole passes treat each row by itself; bytes that a row keeps."""
        batch_size = self.forward.batch_size
        try:
            agrees, size = self._agrees(state, alone(1) if self.output.dim() == 0 else apart(batch_size))
            failed = None
        except Exception as error:
            if is_out_of_memory(error):
                raise
            agrees, failed = False, error
        if agrees:
            return size
        again = Probe(self.forward.all_rows, torch.ones(batch_size))
        if not self._agrees(state, again)[0]:
            raise ValueError(
                "The forward function gave two different outputs for the same input, so no difference between "
                "outputs can be attributed. Switch off what is random in it; is the model in eval mode?"
            ) from failed
        raise _mixing() from failed


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for what the order of sums changes: both were computed by the same steps."""
    error = torch.finfo(other.dtype).eps ** (2 / 3) if other.is_floating_point() else 0.0
    return torch.allclose(one, other, rtol=error, atol=error * float(other.abs().max()))


def _mixing() -> ValueError:
    return ValueError(
        "The forward function reorders or mixes the examples of a batch: what it gives for one depends on which others "
        "are there, or on their order (sorting by length, a mean over the batch, batch normalisation in training "
        "mode). Give a function that treats each row by itself, and leaves it in its place."
    )


def always(context: Tensor) -> Substitute:
    """Puts this context in place."""
    return lambda call: context


def _compared(state: LayerState, probe: Probe, seen: list[bool]) -> Substitute:
    """Leaves the layer as it is, and notes whether it computes what it did in the clean pass."""
    rows = probe.rows[probe.same]

    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        own = context.detach()[probe.same.to(context.device)]
        ours, clean = (torch.where(state.attends[rows], c, 0) for c in (own, state.context[rows]))
        seen.append(agree(ours, clean, 2 / 3))
        return context

    return substitute


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
