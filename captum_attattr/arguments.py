"""Checks of arguments that functions of several packages take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


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


def check_choice(what: str, given: Any, known: Sequence[str]) -> None:
    """Check that an argument is one of the known words; ``what`` says what it chooses.

    Raises:
        ValueError: It is not.
    """
    if given not in known:
        *others, last = map(repr, known)
        raise ValueError(f"Unknown {what} {given!r}. Choose {', '.join(others)} or {last}.")


def one_each(what: str, given: Iterable[T], whose: str, count: int) -> list[T]:
    """Return a list, from a tensor or array as well, and check that it has ``count`` entries.

    Args:
        what: What the entries are, for the message.
        given: The entries.
        whose: What has one entry each, for the message.
        count: The number of these.

    Raises:
        ValueError: There are more or fewer.
    """
    found = list(given.tolist() if hasattr(given, "tolist") else given)
    if len(found) != count:
        raise ValueError(f"Got {len(found)} {what} for {count} {whose}: give one each.")
    return found


def all_or_each(what: str, given: Any, whose: str, count: int) -> list[Any]:
    """Return a list as :func:`one_each`; a single word, number or None counts for all."""
    given = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(given, Iterable) and not isinstance(given, str):
        return one_each(what, given, whose, count)
    return [given] * count
