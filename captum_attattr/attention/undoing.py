"""Changes that are undone when a function ends, whether it returns, raises an error or is interrupted at any line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

Undo = Callable[[], object]
"""A function that undoes a change; it does nothing if the change was not made or is already undone."""


def undoing(function: Callable[[list[Undo]], T]) -> T:
    """Call a function with a list to which it adds undo functions; they run when it has ended, the last first.

    The function must add each undo function *before* it makes the change.
    """
    undo: list[Undo] = []
    try:
        try:
            return function(undo)
        finally:
            _undo(undo)
    finally:
        _undo(undo)  # an interrupt may have stopped the first one: the rest is undone here


def one_at_a_time(function: Callable[[], T]) -> T:
    """Call a function under a lock that all functions called this way share."""

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
