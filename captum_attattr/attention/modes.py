"""Modes of torch that see its functions while a function is called, and end with it whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from traceback import clear_frames
from typing import TypeVar

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode

from captum_attattr.attention.undoing import Undo, undoing

T = TypeVar("T")


class Mode(TorchFunctionMode):
    """A mode that is left even if an interrupt comes between two steps."""

    def during(self, function: Callable[[], T]) -> T:
        """Call a function under this mode."""

        def under_it(undo: list[Undo]) -> T:
            undo.append(self._leave)
            self._enter()
            return function()

        return undoing(under_it)

    def _enter(self) -> None:
        self.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self) -> None:
        error = sys.exception()
        if isinstance(error, KeyboardInterrupt):
            # torch takes a mode off by a generator and puts it back when that goes on. One that the interrupt has
            # stopped would do so when it is collected, after this: so the frames that hold it go now.
            clear_frames(error.__traceback__)
        while self in _get_current_function_mode_stack():
            _pop_mode()
