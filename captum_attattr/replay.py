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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, Handler, Result, UnsupportedModelError, intercepted
from captum_attattr.batch_axis import by_example, find_axis, refuse_other_sizes
from captum_attattr.findings import Finding, Findings
from captum_attattr.forward import Forward, take_rows
from captum_attattr.gradients import refuse_without_derivative, saved_bytes, with_gradients
from captum_attattr.layer_state import LayerState, agree, layer_state
from captum_attattr.module_calls import EndedCall, ModuleCalls, handing_back, refuse_dropout
from captum_attattr.rows_read import CANDIDATES, OnlyRows, with_rows_only

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
            model drops out at random; a sequence is all padding.
        UnsupportedModelError: The probabilities do not explain what the layer computes.
    """

    def __init__(self, forward: Forward, layers: Sequence[nn.Module], findings: Findings | None = None) -> None:
        self.forward = forward
        self._layers = list(layers)
        self._ended: dict[int, list[EndedCall]] = {}
        self._windows: dict[int, int] = {}
        wanted: dict[nn.Module, list[LayerState]] = {layer: [] for layer in layers}
        modules = ModuleCalls()
        places = itertools.count()

        def record(call: AttentionCall) -> Result:
            refuse_dropout(float(call.options.get("dropout") or 0.0))
            result = call.proceed()
            call = by_example(call, forward.batch_size, call.module in wanted)
            self._last, self._last_context = next(places), call.fold(result[0])
            self._last_ended, self._windows[self._last] = modules.ended(), call.windows
            if call.module in wanted:
                wanted[call.module].append(layer_state(call, self._last_context, self._last))
                self._ended[self._last] = self._last_ended
            return result

        self.output = self._clean_pass(modules, record)
        self.roots = modules.roots
        self.states = _in_order_of(self._layers, wanted)
        self._ended.setdefault(self._last, self._last_ended)
        known, same = findings or Findings(), (tuple(map(id, modules.begun)), forward.batch_size == 1)
        self._axis = known.recall(
            forward.function,
            (same, forward.standing, *self._windows.values()),
            lambda: find_axis(forward, self._layers, self.states, modules),
        )
        self._rows_read = self._find_rows_read()
        self._findings = known.of(forward.function, (*same, str(self._rows_read)))

    @with_gradients(False)
    def _clean_pass(self, modules: ModuleCalls, record: Handler) -> Tensor:
        return modules.following(lambda: intercepted(self._layers, record, self.forward))

    def replay(self, substitutes: Mapping[int, Substitute], rows: Tensor) -> Tensor:
        """The forward function's output for ``rows`` of the batch, with some attention calls' contexts replaced.

        Args:
            substitutes: By place among the attention calls, what makes the context there.
            rows: Indices of examples, with repetition.
        """
        if len(rows) > 1 and self.one_by_one:
            raise ValueError(
                f"This forward function runs on one row at a time only, and here are {len(rows)}: it gives one number "
                "for all rows together, or has arguments that do not follow the example."
            )
        self.row_bytes(min(substitutes))
        return self._run(substitutes, rows, self._rows_read)

    @property
    def one_by_one(self) -> bool:
        """Whether only one row can be replayed at a time."""
        return self._axis.one_by_one

    def row_bytes(self, first: int) -> int:
        """Memory that one row of a replay from attention call ``first`` keeps for its gradient."""
        if first not in self._findings:
            self._findings[first] = self._check(first)
        found = self._findings[first]
        if found.whole:
            self._ended[first] = []
        if not found.narrowed:
            self._rows_read = None
        return found.row_bytes(self._last_context.shape[1])

    def _run(self, substitutes: Mapping[int, Substitute], rows: Tensor, rows_read: slice | None) -> Tensor:
        first = min(substitutes)
        ended = self._ended[first]
        places = itertools.count(first if ended else 0)
        pick = partial(self._axis.rows_of, rows=rows, batch_size=self.forward.batch_size)
        length = self._last_context.shape[1]
        only = OnlyRows(rows_read, length) if rows_read is not None else None

        def substitute(call: AttentionCall) -> Result:
            place = next(places)
            if place in substitutes:
                folded = replace(call, windows=self._windows[place])
                if len(call.query) != len(rows) * folded.windows:
                    refuse_other_sizes(len(call.query), type(call.module).__name__, len(rows))
                result: Result = (folded.unfold(substitutes[place](folded)), None)
            elif place == self._last and only is not None:
                result = (with_rows_only(call.narrowed(only.rows).proceed()[0], only.rows, length, 0.0), None)
            else:
                result = call.proceed()
            if place == self._last and only is not None:
                only.begin()
            return result

        def run() -> Tensor:
            return only.narrowing(partial(self.forward, rows)) if only is not None else self.forward(rows)

        return handing_back(ended, pick, lambda: intercepted(self._layers, substitute, run))

    def _find_rows_read(self) -> slice | None:
        """Rows of the sequence, if they are few, such that no others are read after the last attention."""
        length, rows = self._last_context.shape[1], self.forward.all_rows
        if length == 1 or not bool(torch.isfinite(self.output).all()):
            return None
        for candidate in CANDIDATES:
            context = with_rows_only(self._last_context[:, candidate], candidate, length, float("nan"))
            try:
                with torch.no_grad():
                    output = self._run({self._last: always(context)}, rows, None)
            except Exception:  # a forward function may well refuse NaN: then it is left as it is
                return None
            if output.shape == self.output.shape and agree(output, self.output, 2 / 3, self._last_context.dtype):
                return candidate
        return None

    @with_gradients(True)
    def _check(self, first: int) -> Finding:
        """Make sure that a replay without a change gives the clean output; measure the memory of a row."""
        length = self._last_context.shape[1]
        state = next(state for state in self.states if state.index == first)
        if self._rows_read is not None:
            agrees, size = self._agrees(state)
            if agrees:
                return Finding(size, length, whole=False, narrowed=True)
            self._rows_read = None
        agrees, size = self._agrees(state)
        if agrees or not self._ended[first]:
            _refuse_randomness(agrees)
            return Finding(size, length, whole=False, narrowed=False)
        warnings.warn(
            f"Replaying from {state.name} does not give the model's own output, so whole passes are made: "
            "the same result, more slowly.",
            stacklevel=2,
        )
        self._ended[first] = []
        agrees, size = self._agrees(state)
        _refuse_randomness(agrees)
        return Finding(size, length, whole=True, narrowed=False)

    def _agrees(self, state: LayerState) -> tuple[bool, int]:
        """Whether a replay from this layer, of one row, gives the clean output; bytes that the row keeps."""
        # One row; two from the last layer of a batch of one, where a first dimension of 1 may be something else than
        # the batch: whatever else is handed back is handed back there, too, and that replay is short.
        is_last = state is max(self.states, key=lambda other: other.index)
        several = self.forward.batch_size == 1 and self.output.dim() > 0 and not self.one_by_one
        count = 2 if is_last and several else 1
        rows = torch.zeros(count, dtype=torch.long)
        clean = take_rows(self.output, rows, self.forward.batch_size)
        seen: list[bool] = []
        watched = {other.index: _compared(other, rows, seen) for other in self.states if other.index > state.index}
        with torch.enable_grad(), saved_bytes(self.roots) as saved:
            context = state.context[:1].repeat(count, 1, 1, 1).requires_grad_()
            try:
                output = self._run({state.index: always(context), **watched}, rows, self._rows_read)
            except UnsupportedModelError:
                raise
            except Exception:  # whatever a model does with outputs handed back: whole passes are always right
                if not self._ended[state.index]:
                    raise
                return False, 0
            refuse_without_derivative(output)
            output = output.detach()
        same = output.shape == clean.shape and agree(output, clean, 2 / 3, context.dtype)
        return same and all(seen), sum(saved.values()) // count


def _refuse_randomness(agrees: bool) -> None:
    if not agrees:
        raise ValueError(
            "The forward function gave two different outputs for the same input, so no difference between "
            "outputs can be attributed. Switch off what is random in it, or what one example gets from the "
            "other examples of its batch; is the model in eval mode?"
        )


def always(context: Tensor) -> Substitute:
    """Puts this context in place."""
    return lambda call: context


def _compared(state: LayerState, rows: Tensor, seen: list[bool]) -> Substitute:
    """Leaves the layer as it is, and notes whether it computes what it did in the clean pass."""

    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        ours, clean = (torch.where(state.attends[rows], c, 0) for c in (context.detach(), state.context[rows]))
        seen.append(agree(ours, clean, 2 / 3))
        return context

    return substitute


def _in_order_of(layers: Sequence[nn.Module], wanted: Mapping[nn.Module, list[LayerState]]) -> list[LayerState]:
    _refuse_unreached([bool(wanted[layer]) for layer in layers], layers)
    for layer, states in wanted.items():
        if len(states) != sum(layer is other for other in layers):
            raise ValueError(
                f"{type(layer).__name__} runs {len(states)} times in one pass (shared weights) and is listed "
                f"{sum(layer is other for other in layers)} times: list it once for each of its calls, "
                f"layer=[attention] * {len(states)}."
            )
    queues = {layer: iter(states) for layer, states in wanted.items()}
    return [next(queues[layer]) for layer in layers]


def _refuse_unreached(reached: Sequence[bool], layers: Sequence[nn.Module]) -> None:
    if all(reached):
        return
    missing = [place for place, is_reached in enumerate(reached) if not is_reached]
    kinds = ", ".join(dict.fromkeys(type(layers[place]).__name__ for place in missing))
    raise ValueError(
        f"The forward function reached {sum(reached)} of the {len(layers)} given layers. It never reached the "
        f"attention of {', '.join(map(str, missing))} ({kinds}), counted from 0. Is each a layer of the model that the "
        "forward function runs, on the inputs that it was given? attention_layers(model) lists those of all its parts; "
        f"those reached are {[place for place, is_reached in enumerate(reached) if is_reached]}. Models wrapped in "
        "DataParallel run copies of their layers: give the model itself."
    )
