"""What does it save not to compute the rows of the sequence that the output does not read?

    python -m benchmarks.rows_left_out

A classifier that reads [CLS] needs no other row after the last attention layer
(``captum_attattr/engine/rows_read.py``). Processor seconds of an attribution of one text with four evaluations a path,
with those rows left out and with all rows, in turns. A mode that gives less than a tenth would not be worth its lines.
"""

from __future__ import annotations

import statistics
import time
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks.setup import paired
from benchmarks.setup.machine import line
from benchmarks.setup.results import table
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attribution import PathName
from captum_attattr.engine.trials import Trials

CASES: tuple[tuple[str, int], ...] = (
    (BUNDLED, 32),
    (BUNDLED, 128),
    (BUNDLED, 512),
    ("BERT-base size", 32),
    ("BERT-base size", 128),
)
STEPS = 4

find_rows_read = Trials.find_rows_read


def all_rows(trials: Trials) -> tuple[slice | None, bool]:
    """In place of the search: no rows may be left out."""
    return None, find_rows_read(trials)[1]


def seconds(model: Any, ids: Tensor, path: PathName) -> float:
    method = SelfAttentionAttribution(lambda some: model(some).logits.softmax(-1), attention_layers(model), path=path)
    start = time.process_time()
    method.attribute(ids, target=1, n_steps=STEPS)
    return time.process_time() - start


def measure(size: str, tokens: int, path: PathName, repeats: int) -> dict[str, float]:
    model, tokenizer = build(size)
    ids = sentences(tokenizer, tokens, 1)
    left_out, whole = [], []
    for _ in range(repeats + 1):
        left_out.append(seconds(model, ids, path))
        with patch.object(Trials, "find_rows_read", all_rows):
            whole.append(seconds(model, ids, path))
    ratios = [one / other for one, other in zip(whole, left_out, strict=True)][1:]
    return {
        "left out": statistics.median(left_out[1:]),
        "all": statistics.median(whole[1:]),
        "times": statistics.median(ratios),
    }


def markdown(figures: dict[str, Any]) -> str:
    rows = [
        [name, f"{found['all']:.2f}", f"{found['left out']:.2f}", f"**{found['times']:.2f}**"]
        for name, found in figures["found"].items()
    ]
    return f"""# Rows that the output does not read

Processor seconds of an attribution of one text, {STEPS} evaluations a path, F = probability by [CLS]. Made by
`python -m benchmarks.rows_left_out`; {line(figures["environment"])}.

{table(["", "all rows", "without those", "times as fast"], rows)}
"""


if __name__ == "__main__":
    paired.run("rows_left_out", __doc__, CASES, measure, markdown, repeats=2)
