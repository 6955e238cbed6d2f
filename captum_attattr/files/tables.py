"""Rows of text files: tab- or comma-separated, JSON lines, or a text a line."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TEXT_COLUMNS = ("sentence", "text")
"""Names of the column with the texts, the first that is there."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Table:
    """The rows of a file, each with the number of its line, and how many blank lines were left out."""

    name: str
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    blank: int


def read_table(path: Path) -> Table:
    """Read a file by its ending: ``.tsv``, ``.csv``, ``.jsonl``, any other with a text a line; "-": standard input.

    Standard input, and a file of another ending, is tab-separated if its first line is a header with a column of texts,
    and JSON lines if it begins with a brace.

    Raises:
        ValueError: The file cannot be read, or its lines are not of its kind. The message names the file and the line.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    reader = _READERS[_kind(path.suffix.lower(), text)]
    try:
        lines = list(reader(text))
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    rows = [(line, row) for line, row in lines if row is not None]
    columns = list(dict.fromkeys(column for _, row in rows[:1] for column in row))
    return Table(name, columns, rows, len(lines) - len(rows))


def _kind(suffix: str, text: str) -> str:
    if suffix in (".tsv", ".csv", ".jsonl"):
        return suffix
    first = text.lstrip().split("\n", 1)[0].strip()
    if first.startswith("{"):
        return ".jsonl"
    return ".tsv" if set(first.split("\t")) & set(TEXT_COLUMNS) else ""


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _tab_separated(text: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield the rows below the header. Quotation marks belong to a cell unless they are around all of it."""
    columns: list[str] | None = None
    for number, line in enumerate(_lines(text), 1):
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if columns is None:
            columns = cells
        elif not line.strip():
            yield number, None
        else:
            yield number, _row(columns, cells, number)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _comma_separated(text: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = next(reader, [])
    for cells in reader:
        yield reader.line_num, _row(columns, cells, reader.line_num) if any(cell.strip() for cell in cells) else None


def _row(columns: list[str], cells: list[str], number: int) -> dict[str, str]:
    if len(cells) > len(columns):
        raise ValueError(f"line {number} has {len(cells)} cells, the header has {len(columns)}")
    return dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True))


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            yield number, None
            continue
        try:
            found = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"line {number} holds a {type(found).__name__}, expected an object with named fields")
        yield number, {name: _as_text(value) for name, value in found.items()}


def _as_text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _plain_lines(text: str) -> Iterator[tuple[int, dict[str, str] | None]]:
    for number, line in enumerate(_lines(text), 1):
        yield number, {TEXT_COLUMNS[0]: line} if line.strip() else None


_READERS = {".tsv": _tab_separated, ".csv": _comma_separated, ".jsonl": _json_lines, "": _plain_lines}
