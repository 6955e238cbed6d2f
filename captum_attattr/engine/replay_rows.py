"""The rows of a replay, which run through a module or take the output that it had in the clean pass.

Below the attention call that is replaced for a row nothing changes, so there the row takes recorded outputs. In one
replay the attention of several layers may be replaced, each in rows of its own. The rows are in the order of these
layers, from the lowest up: each module runs on the first of them, as many as have had their attention replaced by then,
and the others join where it is their turn. So every block runs once, on a batch that grows from layer to layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from captum_attattr.attention.stand_ins import in_place_of_forward
from captum_attattr.engine.batch_axis import BatchAxis
from captum_attattr.engine.leaves import leaves_of
from captum_attattr.engine.module_calls import EndedCall

T = TypeVar("T")


class Recorded(NamedTuple):
    """A module call of the clean pass, and how many of a replay's rows run through it."""

    call: EndedCall
    running: int
    """The first so many rows; the others take the recorded output."""


class ReplayRows:
    """The rows of one replay.

    Args:
        rows: The example of each row, (R,).
        batch_size: Number of examples.
        axis: Which tensors of the clean pass follow the batch.

    Attributes:
        count: Number of rows that run at present: all, or in a module that runs on the first rows only, so many.
    """

    def __init__(self, rows: Tensor, batch_size: int, axis: BatchAxis) -> None:
        self._rows, self._batch_size, self._axis = rows, batch_size, axis
        self.count = len(rows)

    def with_recorded(self, recorded: Sequence[Recorded], function: Callable[[], T]) -> T:
        """Call a function in which these module calls take recorded outputs for the rows that do not run through them.

        Other threads run the modules as they are.
        """
        calls: dict[nn.Module, dict[int, Recorded]] = {}
        for one in recorded:
            calls.setdefault(one.call.module, {})[one.call.occurrence] = one
        occurrences: Counter[nn.Module] = Counter()

        def maker(module: nn.Module) -> Callable[..., Any]:
            return lambda own: partial(self._output, own, module, calls[module], occurrences)

        return in_place_of_forward({module: maker(module) for module in calls}, function)

    def _output(
        self,
        own: Callable[..., Any],
        module: nn.Module,
        calls: Mapping[int, Recorded],
        occurrences: Counter[nn.Module],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        one = calls.get(occurrences[module])
        occurrences[module] += 1
        if one is None or one.running >= self.count:
            return own(*args, **kwargs)
        if one.running:
            return self._partly(own, one, args, kwargs)
        # Calls inside this one do not run but still count, so that later calls of the same modules keep their numbers.
        occurrences.update(one.call.inside)
        return self._recorded_output(one.call, 0)

    def _recorded_output(self, call: EndedCall, start: int) -> Any:
        """Return the recorded output for the present rows from ``start`` on."""
        return self._axis.rows_of(call, self._rows[start : self.count], self._batch_size)

    def _partly(self, own: Callable[..., Any], one: Recorded, args: Any, kwargs: Any) -> Any:
        """Run a module on the first rows, and return its output with the recorded one for the others."""
        args, kwargs = self._axis.first_rows(one.call, args, kwargs, one.running, self.count)
        present, self.count = self.count, one.running
        try:
            first = own(*args, **kwargs)
        finally:
            self.count = present
        leaves, rebuild = leaves_of(first)
        others, _ = leaves_of(self._recorded_output(one.call, one.running))
        follow = self._axis.follow(one.call, others)
        both = zip(leaves, others, follow, strict=True)
        return rebuild([torch.cat([a, b.to(a)]) if grows else a for a, b, grows in both])
