"""What was found out about replaying a forward function: it holds for the batches that come after."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a check found out about replays from one layer."""

    bytes_kept: int
    """By a row of ``length`` tokens, for its gradient."""
    length: int
    whole: bool
    """Whether whole passes have to be made."""
    narrowed: bool
    """Whether rows of the sequence that the output does not read may be left out."""
    kinked: bool
    """Whether the output's derivative may jump on a path from there."""

    def row_bytes(self, length: int) -> int:
        """The same for a row of another length, at most."""
        ratio = length / self.length
        return int(self.bytes_kept * max(ratio, ratio**2))


@dataclass
class Found:
    """What was found out under the same circumstances."""

    layers: dict[int, Finding] = field(default_factory=dict)
    """By attention call."""
    rows_apart: dict[bool, bool] = field(default_factory=dict)
    """Whether what comes after the last attention call treats each row of a batch by itself, with rows of the sequence
    left out (True) and with all of them."""


class Findings:
    """What was found out about replaying one forward function, so that its next batch need not be checked again.

    It holds for passes that call the same modules in the same order and read the same rows of the sequence.
    """

    def __init__(self) -> None:
        self._function: Any = None
        self._known: dict[Any, Any] = {}

    def of(self, function: Any, circumstances: Hashable) -> Found:
        """What is known, to be added to."""
        return self.recall(function, circumstances, Found)

    def recall(self, function: Any, circumstances: Hashable, find: Callable[[], T]) -> T:
        """What ``find`` found out before in these circumstances, or finds out now."""
        if function is not self._function:
            self._function, self._known = function, {}
        if circumstances not in self._known:
            self._known[circumstances] = find()
        found: T = self._known[circumstances]
        return found
