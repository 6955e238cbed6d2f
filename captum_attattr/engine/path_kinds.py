"""The kinds of path, by name."""

from __future__ import annotations

from typing import Any

from captum_attattr.engine.joint import Joint
from captum_attattr.engine.layerwise import Layerwise
from captum_attattr.engine.paths import AttentionPath

PATHS: dict[str, AttentionPath] = {path.name: path for path in (Layerwise(), Joint())}


def path_named(path: Any) -> AttentionPath:
    """Return the path of this name, or the path itself.

    Raises:
        ValueError: There is no such path.
    """
    if isinstance(path, AttentionPath):
        return path
    if not isinstance(path, str) or path not in PATHS:
        raise ValueError(f"Unknown path {path!r}. Choose {' or '.join(map(repr, PATHS))}.")
    return PATHS[path]
