"""The benchmarks of faithfulness and sanity run, go on where they were broken off, and say what their figures say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / script), "--output", str(output), "--threads", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_faithfulness_goes_on_where_it_was(tmp_path):
    options = ("--pairs", "1", "--edges", "5", "--random", "1", "--steps", "2")
    first = run("faithfulness.py", tmp_path, "--limit", "1", *options)
    assert first.returncode == 0, first.stderr
    records = (tmp_path / "faithfulness.jsonl").read_text()
    with open(tmp_path / "faithfulness.jsonl", "a") as lines:
        lines.write('{"place": 3, "tok')  # broken off here
    assert run("faithfulness.py", tmp_path, "--limit", "1", *options).returncode == 0
    assert (tmp_path / "faithfulness.jsonl").read_text().startswith(records)
    figures = json.loads((tmp_path / "faithfulness.json").read_text())
    assert figures["sentences"] == figures["sentences_with_pairs"] == 1
    assert len(figures["tokens"]["comprehensiveness mask"]) == 15
    assert "## Attention edges" in (tmp_path / "faithfulness.md").read_text()
    assert (tmp_path / "faithfulness.png").stat().st_size > 10_000
    other = run("faithfulness.py", tmp_path, "--limit", "1", "--edges", "6")
    assert other.returncode == 1
    assert "made with other settings" in other.stderr


def test_sanity_runs(tmp_path):
    options = ("--limit", "1", "--some", "1", "--models", "1", "--train", "16", "--epochs", "1", "--steps", "2")
    done = run("sanity.py", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "sanity.json").read_text())
    assert figures["padding"]["padding"] < 1e-9
    assert figures["padding"]["shares of padding"] == 0
    assert [row["part"] for row in figures["model"]] == [
        "as trained", "head", *(f"block {number}" for number in range(5, -1, -1)), "embeddings",
    ]  # fmt: skip
    assert figures["model"][0]["shares"] == pytest.approx(1)
    assert (tmp_path / "sanity.md").read_text().count("\n## ") == 6


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("faithfulness_words"), importlib.import_module("faithfulness_report")


def sample(report, values: dict[str, list[float]]):
    records = [{"part": {name: column[row] for name, column in values.items()}} for row in range(40)]
    return report.Sample(records, "part", lambda value: value)


def test_words_follow_the_intervals(modules):
    words, report = modules
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 40))
    rows = {
        "good": noise[0] + 1,
        "bad": noise[1],
        "as bad": noise[2],
        "random 0": noise[3] - 1,
        "random 1": noise[3] + 1,
    }
    found = sample(report, {name: list(row) for name, row in rows.items()})
    assert found.values["random"] == pytest.approx(noise[3])
    assert found.best(["bad", "good"]) == "good"
    assert found.best(["bad", "good"], lowest=True) in ("bad", "as bad")
    assert words.split_by_verdict(found, "good", ["bad", "as bad"]) == ["better than *bad* and *as bad*"]
    assert words.split_by_verdict(found, "good", ["bad"], lowest=True) == ["worse than *bad*"]
    assert words.split_by_verdict(found, "bad", ["good", "as bad"]) == [
        "not told apart from *as bad*",
        "worse than *good*",
    ]


def test_intervals_cover_the_mean(modules):
    """Of many samples of a known mean, about 95% of the intervals hold it."""
    _, report = modules
    generator, held = np.random.default_rng(1), 0
    for _ in range(60):
        mean, low, high = sample(report, {"one": list(generator.normal(3, 1, 40))}).mean("one")
        assert low < mean < high
        held += low < 3 < high
    assert 50 <= held <= 60
