"""Schemas of result files, which are read strictly and sealed by a checksum, and the settings to continue from one.

A file that was changed or damaged after it was written is refused, and the error says what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number, 0 or more."""

Rows = list[list[float | None]]
"""A matrix of finite numbers, with None for missing ones."""


class Record(BaseModel):
    """The content of a file: exactly these fields, of these types, with finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Sealed(Record):
    """A record with the version of its format and a checksum."""

    version: Annotated[int, Field(ge=1)]
    checksum: str


AnyRecord = TypeVar("AnyRecord", bound=Record)
AnySealed = TypeVar("AnySealed", bound=Sealed)


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content, in plain types, with its checksum.

    Example:
        >>> from captum_attattr.files.records import seal
        >>> seal({"version": 1})
        {'version': 1, 'checksum': '2430f1a2ad2982d0'}
    """
    return {**content, "checksum": _checksum(content)}


def unseal(kind: type[AnySealed], text: str | bytes, version: int) -> AnySealed:
    """Read a record that :func:`seal` made, from JSON.

    Args:
        kind: The record's schema.
        text: The JSON.
        version: The newest format that can be read.

    Raises:
        ValueError: The text is no JSON, has a newer version or other fields or types, or was changed.
    """
    content = parsed(text)
    newer = content.get("version")
    if isinstance(newer, int) and newer > version:
        raise ValueError(
            f"it has format version {reprlib.repr(newer)}, this package reads up to {version}: upgrade captum-attattr"
        )
    found = checked(kind, content)
    if found.checksum != _checksum({name: value for name, value in content.items() if name != "checksum"}):
        raise ValueError("its checksum does not match its content, which was changed after it was written")
    return found


def parsed(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON text that holds a mapping.

    Raises:
        ValueError: The text is no JSON, is nested too deeply, or holds no mapping.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it is not valid Unicode: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping")
    return content


def checked(kind: type[AnyRecord], content: Any) -> AnyRecord:
    """Return the content as a record.

    Raises:
        ValueError: The content has other fields or types. The message names the first.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        got = "" if first["type"] == "missing" else f", got {reprlib.repr(first['input'])}"
        message = f"{place}: {first['msg']}{got}"
    except RecursionError:
        message = "it is nested too deeply"
    raise ValueError(message)


def check_settings(what: object, before: Mapping[str, Any], now: Mapping[str, Any], otherwise: str) -> None:
    """Check that the results of an earlier run belong to these settings, so that a run may go on from them.

    Args:
        what: The file or state with the results.
        before: The settings in it.
        now: The settings of this run.
        otherwise: What to do for a new run.

    Raises:
        ValueError: It does not. The message names the first setting that differs.
    """
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{what} is of a run with other settings: there the {name} was {before.get(name)!r}, now it is "
                f"{now.get(name)!r}. Give the same settings to continue, or {otherwise}."
            )


def rows(values: Tensor) -> Rows:
    """Convert a matrix to plain types, with None for NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def matrix(values: Rows) -> Tensor:
    """Convert plain types back to the matrix that :func:`rows` was given, bit for bit, float64.

    Raises:
        ValueError: There is no entry, or the rows have different lengths.
    """
    if not values or not values[0] or len({len(row) for row in values}) > 1:
        raise ValueError(f"a matrix needs rows of equal length, got {reprlib.repr([len(row) for row in values])}")
    numbers = [[math.nan if value is None else value for value in row] for row in values]
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
