"""Checks of arguments that functions of several packages take."""

from __future__ import annotations

from typing import Any


def check_count(name: str, given: Any, least: int = 1, *, or_none: bool = False) -> None:
    """Check that an argument is a whole number of at least ``least``, or with ``or_none`` None, which stands for all.

    Raises:
        ValueError: It is not.
    """
    if given is None and or_none:
        return
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        instead = ", or None for all" if or_none else ""
        raise ValueError(f"{name} must be a whole number of at least {least}{instead}, got {given!r}.")
