"""Texts with their labels, read from files."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captum_attattr.arguments import check_count
from captum_attattr.files.tables import TEXT_COLUMNS, Table, read_table
from captum_attattr.warned import warn

_PAIR, _LABEL = "pair", "label"


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
    column: str | None = None,
) -> list[Example]:
    """Read examples from a file of texts: TSV or CSV with a header line, JSON lines, or one text a line.

    Columns are ``sentence`` (or ``text``) and, optionally, ``pair`` and ``label``. Blank lines are left out, with a
    warning that says how many.

    Args:
        path: The file, "-" for standard input, or a folder that holds ``{split}.tsv``.
        split: The file to read from a folder.
        labelled: Whether every example must have a label.
        limit: Maximum number of examples: the first ones, or with ``seed`` a random choice in the order of the file.
        seed: See ``limit``.
        column: The column with the texts.

    Raises:
        ValueError: The file cannot be read, has no rows or lacks a column, or a text is empty. The message names the
            file and the line, and what was found.

    Example:
        >>> from captum_attattr import demo
        >>> from captum_attattr.files.examples import read_examples
        >>> len(read_examples(demo.REVIEWS, labelled=True, limit=10))
        10
    """
    check_count("limit", limit, or_none=True)
    file = Path(path)
    table = read_table(file / f"{split}.tsv" if file.is_dir() and (file / f"{split}.tsv").is_file() else file)
    if table.blank:
        warn(f"{table.name}: {table.blank} blank lines were left out.")
    names = _columns(table, column, labelled)
    for line, row in table.rows:
        for name in names:
            if not row.get(name, "").strip():
                raise ValueError(f"{table.name}, line {line}: the {name} is empty. Fill it in, or remove the line.")
    text = names[0]
    examples = [Example(row[text], row.get(_PAIR), row.get(_LABEL)) for _, row in table.rows]
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


def _columns(table: Table, column: str | None, labelled: bool) -> list[str]:
    """Return the columns that must be filled in: that of the texts first."""
    found = ", ".join(map(repr, table.columns)) or "none"
    if not table.rows:
        raise ValueError(f"{table.name} holds no texts: it needs at least one row below its header.")
    texts = [name for name in ((column,) if column else TEXT_COLUMNS) if name in table.columns]
    if not texts:
        wanted = repr(column) if column else " or ".join(map(repr, TEXT_COLUMNS))
        choose = "" if column else " Rename one, or choose it (column=, --column)."
        raise ValueError(f"{table.name} has no column {wanted} with the texts: its columns are {found}.{choose}")
    if labelled and _LABEL not in table.columns:
        raise ValueError(f"{table.name} needs the column 'label': its columns are {found}.")
    return [texts[0], *([_PAIR] if _PAIR in table.columns else []), *([_LABEL] if labelled else [])]
