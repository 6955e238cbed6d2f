"""Counts of the cases that tests tried, by name, printed in one line at the end of the suite (see conftest.py)."""

from __future__ import annotations

import os
from collections import defaultdict

_names: dict[str, set[str]] = defaultdict(set)


def tried(kind: str, name: object) -> None:
    """Note one of a kind ("families", "configurations", "faults", "damaged files"); the same name counts once."""
    _names[kind].add(str(name))


def configuration(model_type: str, *settings: object) -> None:
    """A family in one configuration, as far as the test's name does not say it."""
    tried("families", model_type)
    tried("configurations", (os.environ.get("PYTEST_CURRENT_TEST"), model_type, *settings))


def so_far() -> dict[str, list[str]]:
    """In types that go from process to process."""
    return {kind: sorted(names) for kind, names in _names.items()}


def add(others: dict[str, list[str]]) -> None:
    """What another process has tried."""
    for kind, names in others.items():
        _names[kind].update(names)


def told() -> str:
    return "tried: " + ", ".join(f"{len(_names[kind]):,} {kind}" for kind in sorted(_names)) if _names else ""
