"""Where the processor time of some work goes: the model's own passes, and what the package does beside them."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import captum_attattr

FORWARD, BACKWARD, OTHER = "forward", "backward", "other"
PASSES = (FORWARD, BACKWARD)

_PACKAGE = Path(captum_attattr.__file__).parent
_MODULES = ("forward", "_call_impl")
"""Functions of torch's modules that belong to a pass."""


def spent(work: Callable[[], object], every: float = 0.002) -> dict[str, float]:
    """Processor seconds of a call in this thread, by where they went (Unix).

    After each ``every`` of them there is a signal. Python handles it when torch's function that runs has ended, and all
    the time since the last one counts for the place from which that function was called: a long function is counted as
    a whole.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    last = time.process_time()

    def count(_: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        seconds[_place(frame)] += now - last
        last = now

    before = signal.signal(signal.SIGPROF, count)
    signal.setitimer(signal.ITIMER_PROF, every, every)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return dict(seconds)


def _place(frame: FrameType | None) -> str:
    """The innermost that is known: a pass, or a file of the package."""
    while frame is not None:
        found = _known(frame.f_code)
        if found is not None:
            return found
        frame = frame.f_back
    return OTHER


def _known(code: CodeType) -> str | None:
    file = Path(code.co_filename)
    if code.co_name == "__torch_function__":  # a mode, which hands on what the model calls
        return None
    if file.is_relative_to(_PACKAGE):
        return file.relative_to(_PACKAGE).as_posix()
    path = file.as_posix()
    if "/torch/autograd/" in path:
        return BACKWARD
    of_modules = "/torch/nn/modules/" in path and code.co_name in _MODULES
    return FORWARD if of_modules or ("/transformers/" in path and "tokenization" not in path) else None
