"""Plans of replays, and the results of the checks behind them, kept so that later batches need not be checked again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from captum_attattr.engine.module_calls import EndedCall

T = TypeVar("T")


@dataclass(frozen=True)
class ReplayPlan:
    """A way to replay a recorded pass from one attention call on; that of :meth:`Recording.plan` has been checked."""

    ended: Sequence[EndedCall]
    """The module calls that return their recorded outputs without running; empty: whole passes are made."""
    rows_read: slice | None
    """The rows of the sequence that are computed after the last attention call; None: all of them."""


class Cost(NamedTuple):
    """What one row of a replay costs if its attention is replaced in a given layer."""

    row_bytes: int
    """Memory that it keeps for its gradient."""
    kinked: bool
    """Whether the output's derivative may jump as this layer's attention changes."""


@dataclass(frozen=True)
class Finding:
    """The result of a check of replays from one layer."""

    costs: Mapping[int, Cost]
    """By attention call, of this layer and of those above that are explained, for rows of ``length`` tokens."""
    length: int
    whole: bool
    """Whether whole passes are needed in place of replays."""
    narrowed: bool
    """Whether rows of the sequence that the output does not read may be left out."""

    def cost(self, layer: int, length: int) -> Cost:
        """Return an upper bound of the cost of a row of this length, from an attention call on."""
        known = self.costs[max(one for one in self.costs if one <= layer)]
        ratio = length / self.length
        return known._replace(row_bytes=int(known.row_bytes * max(ratio, ratio**2)))


@dataclass
class Found:
    """The results of all checks in the same circumstances."""

    layers: dict[int, Finding] = field(default_factory=dict)
    """By attention call."""
    joins: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """By attention calls: whether rows of all of them may join in replays from the lowest one."""
    rows_independent: dict[bool, bool] = field(default_factory=dict)
    """Whether the part after the last attention call treats each row of a batch independently; key True: with rows of
    the sequence left out, key False: with all of them."""


class Findings:
    """The results of checks of one forward function, by circumstances.

    Circumstances are the same where a pass calls the same modules in the same order and mode, reads the same rows of
    the sequence, and has one example, several of one length, or several of different lengths. The results are dropped
    when the forward function changes.
    """

    def __init__(self) -> None:
        self._function: Any = None
        self._known: dict[Any, Any] = {}

    def look_up(self, function: Any, circumstances: Hashable) -> Found:
        """Return the results for these circumstances; the caller may add to them."""
        return self.recall(function, circumstances, Found)

    def recall(self, function: Any, circumstances: Hashable, find: Callable[[], T]) -> T:
        """Return the stored result for these circumstances, or call ``find`` and store its result."""
        if function is not self._function:
            self._function, self._known = function, {}
        if circumstances not in self._known:
            self._known[circumstances] = find()
        found: T = self._known[circumstances]
        return found
