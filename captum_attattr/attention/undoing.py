"""What has to be undone when a function ends: it is, however the function ends, and whenever an interrupt comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

Undo = Callable[[], object]
"""Sets something back. Where there is nothing to set back, or nothing any more, it does nothing."""


def undoing(function: Callable[[list[Undo]], T]) -> T:
    """Call a function with a list of what is to be undone, and undo that when the function has ended, the last first.

    The function puts each undoing into the list *before* it does what is to be undone.
    """
    undo: list[Undo] = []
    try:
        try:
            return function(undo)
        finally:
            _undo(undo)
    finally:
        _undo(undo)  # an interrupt may have cut the first short: what it left is undone here


def one_at_a_time(function: Callable[[], T]) -> T:
    """Call a function while no other thread is inside one that is called by this."""

    def alone(undo: list[Undo]) -> T:
        undo.append(_release)
        _lock.acquire()
        return function()

    return undoing(alone)


_lock: Any = threading.RLock()


def _release() -> None:
    if _lock._is_owned():
        _lock.release()


def _undo(undo: list[Undo]) -> None:
    while undo:
        undo[-1]()
        undo.pop()
