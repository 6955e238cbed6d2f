"""Tests of replays before they are used: on suitable rows, do they give the model's own output?

Replays, and whole passes with replaced contexts, are right only for forward functions that treat examples
independently: no row's output depends on other rows, and every tensor inside the model has its rows in the order of the
input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, UnsupportedModelError
from captum_attattr.engine.batch_axis import OtherRowsError
from captum_attattr.engine.forward import Forward, take_rows
from captum_attattr.engine.gradients import kinks_above, saved_bytes, with_gradients
from captum_attattr.engine.joining import Joining, Part, Substitute
from captum_attattr.engine.layer_state import LayerState, agree, precision
from captum_attattr.engine.memory import is_out_of_memory
from captum_attattr.engine.nearness import close, near
from captum_attattr.engine.plans import Cost, ReplayPlan
from captum_attattr.engine.probes import Probe, alone, apart, moved
from captum_attattr.engine.rows_read import CANDIDATES, Shadows, with_rows_only

_SEVERAL = 3
"""Number of examples in the test of the lowest layer: rows that affect each other do so whichever examples they are."""
Run = Callable[[ReplayPlan, Mapping[int, Substitute], Tensor, Mapping[int, int]], Tensor]
"""Runs a replay of some rows of the batch with some contexts replaced; the last argument is as for ``replay``."""


class Trial(NamedTuple):
    """The result of the test of one replay."""

    agrees: bool
    """Whether it gives the model's own output."""
    costs: dict[int, Cost]
    """By attention call, of the layer and of those above it that are explained."""


@dataclass(frozen=True)
class Trials:
    """Tests of replays of a clean pass."""

    forward: Forward
    output: Tensor
    """The clean output."""
    states: Sequence[LayerState]
    roots: Sequence[nn.Module]
    last: int
    """Index of the last attention call of the pass."""
    last_context: Tensor
    from_last: ReplayPlan
    """The plan of replays from that call, with all rows of the sequence."""
    run: Run
    one_by_one: bool
    """Whether only one row can be run at a time."""

    @property
    def _alone(self) -> bool:
        return self.one_by_one or self.output.dim() == 0

    def find_rows_read(self) -> tuple[slice | None, bool]:
        """Find the only rows of the sequence that are read after the last attention call, if they are few.

        The test runs the examples in another order, and so also shows whether the rows of the batch keep their order.

        Returns:
            The rows of the sequence, or None for all of them; and whether the rows of the batch keep their order.
        """
        probe, length = moved(self.forward.batch_size), self.last_context.shape[1]
        context = probe.contexts(self.last_context)
        for candidate in CANDIDATES if length > 1 else ():
            shadow = with_rows_only(context[:, candidate], candidate, length, float("nan"))
            in_place, suffices = self._with_shadow(probe, context, shadow, None)
            if suffices or not in_place:
                return candidate if suffices else None, in_place
        return None, self._with_shadow(probe, context, context, None)[0]

    def _with_shadow(
        self, probe: Probe, context: Tensor, shadow: Tensor, rows_read: slice | None
    ) -> tuple[bool, bool | None]:
        """Test whether this last context gives the clean output, and whether its shadow does (None: unknown)."""
        shadows = Shadows(context, shadow)
        try:
            output = shadows.during(lambda: self._replayed(context, probe, rows_read))
        except Exception as error:  # a model may fail in any way on recorded outputs
            if is_out_of_memory(error):
                raise
            return False, None
        if not self._is_clean(output, probe):
            return False, None
        other = shadows.look_up(output)
        return True, None if other is None else close(_left_alone(other, probe), _left_alone(output, probe))

    @with_gradients(False)
    def _replayed(self, context: Tensor, probe: Probe, rows_read: slice | None) -> Tensor:
        return self.run(replace(self.from_last, rows_read=rows_read), {self.last: always(context)}, probe.rows, {})

    def _is_clean(self, output: Tensor | None, probe: Probe) -> bool:
        """Whether the rows that the probe does not change have the clean output."""
        clean = take_rows(self.output, probe.rows, self.forward.batch_size)
        if output is None or output.shape != clean.shape:
            return False
        ours, theirs = _left_alone(output.detach(), probe), _left_alone(clean, probe)
        digits = precision(theirs.dtype, self.last_context.dtype)
        # An output near zero may be nearly all rounding: then its error is judged by what attention changes in it.
        return near(ours, theirs, digits ** (2 / 3)) or near(ours, theirs, digits ** (1 / 2), self._effects)

    @cached_property
    def _effects(self) -> Tensor:
        """The largest change of each output of an example where the last context is halved; 0 if unknown."""
        rows = alone(self.forward.batch_size).rows if self._alone else self.forward.all_rows
        probe = Probe(rows, torch.full((len(rows),), 0.5, device="cpu"))
        clean = take_rows(self.output, rows, self.forward.batch_size)
        try:
            output = self._replayed(probe.changed(self.last_context), probe, None).detach()
        except Exception as error:  # a model may fail in any way on recorded outputs
            if is_out_of_memory(error):
                raise
            return torch.zeros((), device="cpu")
        if output.shape != clean.shape or not output.is_floating_point():
            return torch.zeros((), device="cpu")
        changes: Tensor = (output - clean).abs().nan_to_num(0.0, 0.0)
        return changes.amax(0) if changes.dim() and len(changes) == len(rows) else changes

    def rows_independent(self, rows_read: slice | None) -> bool:
        """Whether no row's output depends on other rows after the last attention call."""
        if self._alone:
            return True
        probe = apart(self.forward.batch_size)
        context = probe.contexts(self.last_context)
        changed = probe.changed(self.last_context)
        same, are_independent = self._with_shadow(probe, context, changed, rows_read)
        if are_independent is False and rows_read is None:
            raise _mixing()  # whole passes would not help: rows affect each other after the last attention call
        if are_independent is None and same:
            # Shadows could not be followed: the modules themselves must run on the changed contexts.
            return self._with_shadow(probe, changed, changed, rows_read)[0]
        return bool(are_independent)

    def probe(self, first: int, in_place: bool) -> Probe:
        """Choose the probe for an attention call.

        Only the lowest layer needs a probe with several rows: its replay runs all layers above, so that rows which
        affect each other anywhere above show in it.
        """
        batch_size = self.forward.batch_size
        if self._alone:
            return alone(batch_size)
        if not in_place:
            return apart(batch_size)
        lowest = min(state.index for state in self.states)
        return apart(batch_size, _SEVERAL) if first == lowest else alone(batch_size)

    def replay(self, plan: ReplayPlan, state: LayerState, probe: Probe) -> Trial:
        """Test a replay from this layer with the rows of a probe."""
        try:
            return self._with_gradient(plan, state, probe)
        except Exception as error:  # a model may fail in any way on recorded outputs
            unsupported = isinstance(error, UnsupportedModelError) and not isinstance(error, OtherRowsError)
            if unsupported or is_out_of_memory(error):
                raise
            return Trial(False, {})

    def _with_gradient(self, plan: ReplayPlan, state: LayerState, probe: Probe) -> Trial:
        """Try several rows without what they would keep for their gradients, then one row with it."""
        if len(probe.rows) == 1:
            return self._tried(plan, state, probe, gradients=True)
        together = self._tried(plan, state, probe, gradients=False)
        by_itself = self._tried(plan, state, alone(self.forward.batch_size), gradients=True)
        agree = together.agrees and by_itself.agrees
        if agree and self._shortest is not None:
            # By itself it has no longer example beside it, whose length may count in the output.
            agree = self._tried(plan, state, self._shortest, gradients=False).agrees
        return by_itself._replace(agrees=agree)

    @cached_property
    def _shortest(self) -> Probe | None:
        """The shortest example alone; None if all are of one length."""
        lengths = self.states[0].lengths()
        if len(lengths.unique()) == 1:
            return None
        return Probe(lengths.argmin().cpu().view(1), torch.ones(1, device="cpu"))

    def _tried(self, plan: ReplayPlan, state: LayerState, probe: Probe, gradients: bool) -> Trial:
        above = [other for other in self.states if other.index > state.index]
        with torch.set_grad_enabled(gradients), saved_bytes(self.roots) as saved:
            seen = {state.index: Seen(probe.changed(state.context).requires_grad_(gradients), 0, True)}
            watched = {other.index: _compared(other, probe, seen, saved) for other in above}
            output = self.run(plan, {state.index: always(seen[state.index].context), **watched}, probe.rows, {})
            costs = _costs(seen, output, sum(saved.values()), len(probe.rows)) if gradients else {}
        return Trial(self._is_clean(output, probe) and all(one.agrees for one in seen.values()), costs)

    @with_gradients(False)
    def joins(self, plan: ReplayPlan, first: int) -> bool:
        """Test a replay in which a row of each higher layer joins.

        Below them run two rows of the lowest layer, one of them with a scaled context.
        """
        states = sorted((state for state in self.states if state.index >= first), key=lambda state: state.index)
        rows = torch.arange(len(states) + 1, device="cpu").flip(0) % self.forward.batch_size
        probe = Probe(rows, torch.ones(len(rows), device="cpu").index_fill_(0, torch.tensor([0], device="cpu"), 0.5))
        joining = Joining([_part(state, probe, n + 1 if n else 0, n + 2) for n, state in enumerate(states)])
        try:
            output = self.run(plan, joining.substitutes(), joining.rows, joining.starts)
        except Exception:  # a model may fail in any way on other rows than it was made for, or memory be short
            return False
        seen = (self._joined_as_clean(state, joining) for state in states)
        return self._is_clean(output, probe) and all(seen)

    def _joined_as_clean(self, state: LayerState, joining: Joining) -> bool:
        """Whether a layer computed its clean context for the unchanged rows of the layers below."""
        rows = joining.rows[1 : joining.ranges[state.index].start]
        own, attends = joining.contexts[state.index][1 : len(rows) + 1], state.attends[rows]
        return agree(torch.where(attends, own, 0), torch.where(attends, state.context[rows], 0), 2 / 3)

    def whole_pass(self, plan: ReplayPlan, state: LayerState) -> Trial:
        """Test a whole pass with a replaced context; raise an error if it does not treat rows independently."""
        batch_size = self.forward.batch_size
        probe, failed = alone(1) if self._alone else apart(batch_size), None
        try:
            trial = self._with_gradient(plan, state, probe)
            if trial.agrees:
                return trial
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failed = error
        again = Probe(self.forward.all_rows, torch.ones(batch_size, device="cpu"))
        if not self._tried(plan, state, again, gradients=False).agrees:
            raise ValueError(
                "The forward function gave two different outputs for the same input, so no difference between "
                "outputs can be attributed. Switch off what is random in it; is the model in eval mode? Or its output "
                "uses attention weights that a layer returns beside its context."
            ) from failed
        raise _mixing() from failed


def _part(state: LayerState, probe: Probe, start: int, stop: int) -> Part:
    """Return some rows of a probe, for one layer."""
    some = Probe(probe.rows[start:stop], probe.scale[start:stop])
    return Part(state, some.rows, some.changed(state.context))


def _left_alone(output: Tensor, probe: Probe) -> Tensor:
    """Select the rows of an output that the probe does not change; all of it if it has other rows than the probe."""
    has_rows = output.dim() > 0 and output.shape[0] == len(probe.rows)
    return output[probe.same.to(output.device)] if has_rows else output


def _mixing() -> ValueError:
    return ValueError(
        "The forward function reorders or mixes the examples of a batch: the output for one example depends on the "
        "others, or on their order (sorting by length, a mean over the batch, batch normalisation in training mode). "
        "Give a function that treats each row independently and keeps the order of rows."
    )


def always(context: Tensor) -> Substitute:
    """Return a substitute that always gives this context."""
    return lambda call: context


class Seen(NamedTuple):
    """A layer's context in a trial."""

    context: Tensor
    saved: int
    """Memory kept for gradients up to it, without the context itself."""
    agrees: bool
    """Whether it is that of the clean pass, where the probe changes nothing."""


def _compared(state: LayerState, probe: Probe, seen: dict[int, Seen], saved: dict[int, int]) -> Substitute:
    """Return a substitute that leaves the layer as it is and records its context."""
    rows = probe.rows[probe.same]

    def substitute(call: AttentionCall) -> Tensor:
        context, _ = call.proceed()
        own = context.detach()[probe.same.to(context.device)]
        ours, clean = (torch.where(state.attends[rows], c, 0) for c in (own, state.context[rows]))
        seen[state.index] = Seen(context, sum(saved.values()) - context.nbytes, agree(ours, clean, 2 / 3))
        return context

    return substitute


def _costs(seen: dict[int, Seen], output: Tensor, saved: int, rows: int) -> dict[int, Cost]:
    kinks = kinks_above(output, [one.context for one in seen.values()])
    return {
        index: Cost((saved - one.saved) // rows, kinked)
        for (index, one), kinked in zip(seen.items(), kinks, strict=True)
    }
