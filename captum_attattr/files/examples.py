"""Texts with their labels, read from tab-separated files."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captum_attattr.arguments import check_count

_COLUMNS = ("sentence", "pair", "label")


@dataclass(frozen=True)
class Example:
    """A text, its second text if it is a pair, and its label if it is known."""

    text: str
    text_pair: str | None = None
    label: str | None = None


def read_examples(
    path: str | os.PathLike[str],
    split: str = "test",
    *,
    labelled: bool = False,
    limit: int | None = None,
    seed: int | None = None,
) -> list[Example]:
    """Read examples from a TSV file with a header line: columns ``sentence`` and, optionally, ``pair`` and ``label``.

    Args:
        path: The file, or a folder that holds ``{split}.tsv``.
        split: The file to read from a folder.
        labelled: Whether every example must have a label.
        limit: Maximum number of examples: the first ones, or with ``seed`` a random choice in the order of the file.
        seed: See ``limit``.

    Raises:
        ValueError: The file cannot be read, has no rows or lacks a column, or a text is empty. The message names the
            file and the line.

    Example:
        >>> from captum_attattr import demo
        >>> from captum_attattr.files.examples import read_examples
        >>> len(read_examples(demo.REVIEWS, labelled=True, limit=10))
        10
    """
    check_count("limit", limit, or_none=True)
    file = Path(path)
    file = file / f"{split}.tsv" if file.is_dir() and (file / f"{split}.tsv").is_file() else file
    rows = _rows(file)
    columns = [name for name in _COLUMNS if name in rows[0][1]]
    if labelled and "label" not in columns:
        raise ValueError(f"{file} needs the column 'label': its columns are {', '.join(map(repr, rows[0][1]))}.")
    for line, row in rows:
        for name in columns:
            if not (row[name] or "").strip():
                raise ValueError(f"{file}, line {line}: the {name} is empty. Fill it in, or remove the line.")
    examples = [Example(row["sentence"] or "", row.get("pair"), row.get("label")) for _, row in rows]
    if limit is None or limit >= len(examples):
        return examples
    if seed is None:
        return examples[:limit]
    return [examples[place] for place in sorted(random.Random(seed).sample(range(len(examples)), limit))]


def label_numbers(examples: Sequence[Example], labels: Sequence[str]) -> list[int]:
    """Convert the examples' labels, given by name or number, to numbers of a model's ``labels``.

    Raises:
        ValueError: An example has no label, or one that the model does not have.
    """
    names = {name: number for number, name in enumerate(labels)} | {str(n): n for n in range(len(labels))}
    for place, example in enumerate(examples):
        if example.label not in names:
            raise ValueError(
                f"Example {place} ({example.text[:40]!r}) has the label {example.label!r}; the model has "
                f"{', '.join(f'{number} ({name})' for number, name in enumerate(labels))}."
            )
    return [names[str(example.label)] for example in examples]


def texts_and_pairs(examples: Sequence[Example]) -> tuple[list[str], list[str] | None]:
    """Return the examples' texts, and their second texts if they are pairs, as the first example is or is not."""
    pairs = [example.text_pair or "" for example in examples] if examples[0].text_pair is not None else None
    return [example.text for example in examples], pairs


def _rows(file: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not rows or "sentence" not in rows[0][1]:
        raise ValueError(f"{file} needs a header line with the column 'sentence', and at least one row.")
    return rows
