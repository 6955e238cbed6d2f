"""Recording of a clean pass, and replays of it from any attention layer with another context in that layer.

On the path of a layer nothing changes that runs before it. So the clean pass records, at each attention call, which
module calls have already ended (the embeddings, the blocks below, the layer's own query, key and value). A replay runs
the whole forward function again, but these modules return their recorded outputs without running, and the given
attention calls return another context. No code here depends on the model's family.

Replays are used only after a test that they give the model's own output, on rows that show whether rows affect each
other or change their order (:mod:`captum_attattr.engine.probes`): once for each kind of batch and lowest layer, and
again where rows of several layers join. If they do not (a model may
keep state besides its hidden states), whole passes are made instead; if these fail the test as well, the forward
function is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor

from captum_attattr.attention import AttentionCall, Handler, Result, intercepted
from captum_attattr.attention.undoing import Undo, undoing
from captum_attattr.engine.batch_axis import by_example, find_axis, refuse_other_sizes
from captum_attattr.engine.calls import Calls
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import refuse_inference_weights, with_gradients
from captum_attattr.engine.joining import Substitute
from captum_attattr.engine.layer_state import LayerState, layer_state, refuse_written, tensors_of
from captum_attattr.engine.module_calls import EndedCall, ModuleCalls, refuse_dropout
from captum_attattr.engine.module_state import ModuleState
from captum_attattr.engine.plans import Cost, Finding, Findings, ReplayPlan
from captum_attattr.engine.replay_rows import Recorded, ReplayRows
from captum_attattr.engine.rows_read import OnlyRows, with_rows_only
from captum_attattr.engine.trials import Trials, always
from captum_attattr.warned import warn

__all__ = ["Recording", "Substitute", "always"]

T = TypeVar("T")


class Recording:
    """A clean pass of a forward function, which can be replayed.

    Args:
        forward: The forward function with one batch of arguments.
        calls: The attention calls to record.
        findings: Results of checks in earlier recordings of the same function; new ones are added.

    Attributes:
        output: The clean output.
        states: One :class:`LayerState` for each of these calls, in the order of ``calls``.

    Raises:
        ValueError: The forward function does not make one of these calls; dropout is active; a sequence is all padding.
            On a replay: examples of a batch affect each other or change their order.
        UnsupportedModelError: The probabilities do not reproduce a layer's context.
    """

    def __init__(self, forward: Forward, calls: Calls, findings: Findings | None = None) -> None:
        self.forward = forward
        self._layers = calls.layers
        self._ended: dict[int, list[EndedCall]] = {}
        self._windows: dict[int, int] = {}
        self._running: list[tuple[int, ...]] = []
        self._read: list[tuple[str, Tensor, int]] = []
        states: list[LayerState] = []
        self._at_start: list[ModuleState] = []
        self._keeps_state = False
        modules = ModuleCalls(lambda root: self._at_start.append(ModuleState([root])))
        places = itertools.count()

        def record(call: AttentionCall) -> Result:
            refuse_dropout(call.dropout)
            result, wanted = call.proceed(), calls.wants(call.module)
            call = by_example(call, forward.batch_size, wanted)
            self._last, self._last_context = next(places), call.fold(result[0])
            self._last_ended = [ended for ended in modules.ended() if not ended.hands_on(call.steps)]
            self._windows[self._last] = call.windows
            self._running.append(modules.running())
            if wanted:
                self._read += tensors_of(call)
                states.append(layer_state(call, self._last_context, self._last))
                self._ended[self._last] = self._last_ended
            return result

        if forward.owner is not None:
            self._at_start.append(ModuleState([forward.owner]))
        self.output = self._clean_pass(modules, record)
        refuse_written(self._read)
        self.roots = list(dict.fromkeys([*modules.roots, *filter(None, [forward.owner])]))
        self.states = calls.arranged(states)
        self._ended.setdefault(self._last, self._last_ended)
        lengths = len(self.states[0].lengths().unique())
        modes = tuple((id(module), module.training) for module in modules.begun)
        # A mask that forbids nothing may be left out: what holds without it need not hold with it.
        without = tuple(tuple(size < 0 for size in sizes) for sizes in modules.sizes_in)
        known, same = findings or Findings(), (modes, forward.batch_size == 1, lengths == 1, without)
        self._axis = known.recall(
            forward.function,
            (same, forward.standing, *self._windows.values()),
            lambda: self._keeping_state(lambda: find_axis(forward, self._layers, self.states, modules)),
        )
        from_last = ReplayPlan(self._ended[self._last], None)
        self._trials = Trials(
            forward,
            self.output,
            self.states,
            self.roots,
            self._last,
            self._last_context,
            from_last,
            self._run,
            self.one_by_one,
        )
        self._rows_read, self._in_place = self._keeping_state(self._trials.find_rows_read)
        self._findings = known.look_up(forward.function, (*same, str(self._rows_read), self._in_place))
        self._plans: dict[int, ReplayPlan] = {}

    @with_gradients(False)
    def _clean_pass(self, modules: ModuleCalls, record: Handler) -> Tensor:
        def run(undo: list[Undo]) -> Tensor:
            undo.append(self._restore)
            try:
                return modules.following(lambda: intercepted(self._layers, record, self.forward))
            except RuntimeError as error:
                if "does not require grad" in str(error):
                    raise ValueError(
                        "The forward function takes a gradient itself. Give a function of forward passes alone: its "
                        "own gradient is what the method integrates."
                    ) from error
                raise

        return undoing(run)

    def plan(self, first: int) -> ReplayPlan:
        """Return how replays from attention call ``first`` are made: as a check has shown, which is made once."""
        if first not in self._plans:
            if first not in self._findings.layers:
                self._findings.layers[first] = self._keeping_state(partial(self._check, first))
            found = self._findings.layers[first]
            ended = [] if found.whole else self._ended[first]
            self._plans[first] = ReplayPlan(ended, self._rows_read if found.narrowed else None)
        return self._plans[first]

    def joins(self, first: int) -> bool:
        """Whether rows of the layers above may join in a replay from attention call ``first``, as a check has shown."""
        plan, known = self.plan(first), self._findings.joins
        layers = tuple(sorted(state.index for state in self.states if state.index >= first))
        if layers not in known:
            may = bool(plan.ended) and self._in_place and not self.one_by_one
            known[layers] = may and self._keeping_state(partial(self._trials.joins, plan, first))
        return known[layers]

    def cost(self, layer: int) -> Cost:
        """Return what a row costs whose attention is replaced in an attention call, from the checks made so far."""
        checked = [first for first in self._findings.layers if first <= layer]
        if not checked:
            self.plan(layer)
        return self._findings.layers[max(checked, default=layer)].cost(layer, self._last_context.shape[1])

    def replay(
        self,
        plan: ReplayPlan,
        substitutes: Mapping[int, Substitute],
        rows: Tensor,
        starts: Mapping[int, int] = MappingProxyType({}),
    ) -> Tensor:
        """Run the forward function on ``rows`` of the batch, with the contexts of some attention calls replaced.

        Args:
            plan: How, from :meth:`plan` of the first of these attention calls.
            substitutes: By index of the attention call, the function that makes its context.
            rows: Indices of examples, with repetition.
            starts: Where rows join on the way (:class:`Joining`): by attention call, how many have joined below it.
        """
        if len(rows) > 1 and self.one_by_one:
            raise ValueError(
                f"This forward function runs on one row at a time only, and got {len(rows)}: it gives one number "
                "for all rows together, or has arguments that do not follow the example."
            )
        run = partial(self._run, plan, substitutes, rows, starts)
        return self._keeping_state(run) if self._keeps_state else run()

    def _restore(self) -> None:
        """Restore the state of the modules (:class:`ModuleState`) from before the clean pass."""
        changed = [state.restore() for state in self._at_start]
        self._keeps_state = any(changed) or self._keeps_state

    def _keeping_state(self, function: Callable[[], T]) -> T:
        """Call a function and restore the state of the modules from before."""
        states = ModuleState(self.roots)

        def restore() -> None:
            self._keeps_state = states.restore() or self._keeps_state

        def kept(undo: list[Undo]) -> T:
            undo.append(restore)
            return function()

        return undoing(kept)

    @property
    def one_by_one(self) -> bool:
        """Whether only one row can be replayed at a time."""
        return self._axis.one_by_one

    def _run(
        self, plan: ReplayPlan, substitutes: Mapping[int, Substitute], rows: Tensor, starts: Mapping[int, int]
    ) -> Tensor:
        places = self._places(min(substitutes)) if plan.ended else itertools.count()
        length, present = self._last_context.shape[1], ReplayRows(rows, self.forward.batch_size, self._axis)
        only = OnlyRows(plan.rows_read, length) if plan.rows_read is not None else None

        def substitute(call: AttentionCall) -> Result:
            place = next(places)
            if place in substitutes:
                folded = replace(call, windows=self._windows[place])
                if call.sizes.rows != present.count * folded.windows:
                    refuse_other_sizes(call.sizes.rows, type(call.module).__name__, present.count)
                result: Result = (folded.unfold(substitutes[place](folded)), None)
            elif place == self._last and only is not None:
                result = (with_rows_only(call.narrowed(only.rows).proceed()[0], only.rows, length, 0.0), None)
            else:
                result = call.proceed()
            if place == self._last and only is not None:
                only.begin()
            return result

        def run() -> Tensor:
            return only.during(partial(self.forward, rows)) if only is not None else self.forward(rows)

        recorded = self._recorded(plan, starts)
        return present.with_recorded(recorded, lambda: intercepted(self._layers, substitute, run))

    def _recorded(self, plan: ReplayPlan, starts: Mapping[int, int]) -> list[Recorded]:
        """Return the module calls that not all rows run through: those that have ended where a layer's rows join."""
        found = {call.place: Recorded(call, 0) for call in plan.ended}
        for layer, running in sorted(starts.items()):
            for call in self._ended[layer] if running else ():
                found.setdefault(call.place, Recorded(call, running))
        return list(found.values())

    def _places(self, first: int) -> Iterator[int]:
        """Yield the indices of the attention calls that a replay from one of them makes.

        Of those before it these are the ones of modules that had not ended: a module may make several.
        """
        yield from (place for place in range(first) if self._running[place][-1] in self._running[first])
        yield from itertools.count(first)

    @with_gradients(True)
    def _check(self, first: int) -> Finding:
        """Test replays from an attention call against the model's own output, and measure the memory of a row."""
        refuse_inference_weights(self.roots)
        length, ended = self._last_context.shape[1], self._ended[first]
        state = next(state for state in self.states if state.index == first)
        if ended:
            probe = self._trials.probe(first, self._in_place)
            for rows_read in (self._rows_read, None) if self._rows_read is not None else (None,):
                trial = self._trials.replay(ReplayPlan(ended, rows_read), state, probe)
                if trial.agrees and self._are_rows_independent(rows_read):
                    return Finding(trial.costs, length, whole=False, narrowed=rows_read is not None)
        trial = self._trials.whole_pass(ReplayPlan([], None), state)
        if ended:
            warn(
                f"Replaying from {state.name} does not give the model's own output, so whole passes are made: "
                "the result is the same but takes longer."
            )
        return Finding(trial.costs, length, whole=True, narrowed=False)

    def _are_rows_independent(self, rows_read: slice | None) -> bool:
        narrowed = rows_read is not None
        if narrowed not in self._findings.rows_independent:
            self._findings.rows_independent[narrowed] = self._trials.rows_independent(rows_read)
        return self._findings.rows_independent[narrowed]
