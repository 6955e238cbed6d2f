"""The table of families in the docs: its rows, its file, and what must hold of a row."""

from __future__ import annotations

import csv
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from adapted_models import ADAPTED, adapted_inputs, adapted_model
from family_rows import IN_FLOAT32, Case, Row, row
from library_models import NotSmallError, model_types, small_inputs, small_model
from plain_models import PLAIN, plain_inputs, plain_model
from tqdm.auto import tqdm

FILE = Path(__file__).parents[2] / "docs" / "families.csv"
NOT_TRIED = FILE.with_name("families_not_tried.csv")
SLOW = {"cpmant", "funnel", "groupvit", "kosmos-2.5", "mgp-str", "pegasus_x", "prophetnet"}
"""Families that take too long for every run."""
TOO_SLOW = {"falcon_h1", "swin2sr"}
LARGEST_ERROR = {"float64": 1e-4, "float32": 1e-3}
"""By data type; many families compute their softmax in float32 in both, and random weights enlarge its rounding."""

_NUMBERS = ("layerwise", "joint", "padded right", "padded left", "mask_heads", "eager")
COLUMNS = ("model", "calls", "in", *_NUMBERS, "bfloat16", "made by", "prune_heads", "remarks")


def families() -> list[str]:
    return [*PLAIN, *ADAPTED, *model_types()]


def case_of(family: str) -> Case:
    """Build a family's model and inputs.

    Raises:
        NotSmallError: It does not run at this size.
    """
    if family in PLAIN:
        return Case(plain_model(family), plain_inputs(family))
    if family in ADAPTED:
        return Case(adapted_model(family), adapted_inputs())
    case = Case(small_model(family), {})
    try:
        case.inputs = small_inputs(case.model)
        with torch.no_grad():
            case.forward(*case.tensors)
    except Exception as error:  # a family may require anything of its inputs
        raise NotSmallError(f"{type(error).__name__}: {error}") from error
    return case


def as_line(measured: Row) -> dict[str, str]:
    """One line of the table."""
    values = (measured.layerwise, measured.joint, measured.padded_right, measured.padded_left, measured.masked,
              measured.eager)  # fmt: skip
    left_out = measured.left_out[measured.left_out.find("Left out") :]
    remarks = {"refused": measured.refused, "padded left": measured.left_refused, "": left_out}
    return {
        "model": measured.family,
        "calls": ", ".join(f"{count} {kind}" for kind, count in measured.calls.items()),
        "in": measured.dtype,
        **{name: _short(value) for name, value in zip(_NUMBERS, values)},
        "bfloat16": _short(measured.half),
        "made by": measured.passes,
        "prune_heads": measured.pruned,
        "remarks": " ".join(f"{name}: {_first_sentence(text)}".strip(": ") for name, text in remarks.items() if text),
    }


def is_green(line: dict[str, str]) -> bool:
    """Whether all numbers are right, or the model is refused."""
    errors = [float(line[name]) for name in _NUMBERS if line[name]]
    explained = bool(errors) or line["remarks"].startswith("refused")
    allowed = LARGEST_ERROR["float32" if IN_FLOAT32 in line["remarks"] else line["in"]] if errors else 0.0
    return explained and all(error <= allowed for error in errors)


def agree(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two lines say the same, but for the size of errors."""
    same = ("model", "calls", "in", "made by", "prune_heads")
    filled = [name for name in _NUMBERS if bool(one[name]) != bool(other[name])]
    return all(one[name] == other[name] for name in same) and not filled


def read() -> dict[str, dict[str, str]]:
    return {line["model"]: line for line in _read(FILE)}


def write(only: Sequence[str] = ()) -> None:
    """Measure all families, or only some, and write both files of the docs."""
    names = [name for name in families() if not only or name in only]
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        lines = list(tqdm(pool.map(_measured, names), total=len(names)))
    kept = [line for path in (FILE, NOT_TRIED) for line in _read(path) if only and line["model"] not in only]
    lines = sorted([*lines, *kept], key=lambda line: families().index(line["model"]))
    _write(FILE, COLUMNS, [line for line in lines if "why" not in line])
    _write(NOT_TRIED, ("model", "why"), [line for line in lines if "why" in line])


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _measured(name: str) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in TOO_SLOW:
            return {"model": name, "why": "one pass of this size takes seconds"}
        try:
            return as_line(row(name, case_of(name)))
        except NotSmallError as error:
            return {"model": name, "why": _plain(str(error)[:100])}
        except Exception as error:  # to be seen in the table, and mended
            return {**dict.fromkeys(COLUMNS, ""), "model": name, "remarks": f"FAILED: {error!r}"}


def _write(path: Path, columns: Iterable[str], lines: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)])\. ", _plain(text))[0].rstrip(".")


def _plain(text: str) -> str:
    """On one line, without what the docs would take for markup."""
    return " ".join(re.sub(r"[`*|<>]|_(?!\w)", "", text).split())


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


if __name__ == "__main__":
    write(sys.argv[1:])
