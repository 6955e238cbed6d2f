"""The benchmarks of faithfulness and sanity run, go on where they were broken off, and say what their figures say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.faithfulness.samples import Sample
from benchmarks.faithfulness.words import split_by_verdict
from captum_attattr.text.model_output import OF_LABEL


@pytest.fixture
def run(run_benchmark, small_model):
    """Two steps on the path will do, and two layers."""
    return lambda name, *options: run_benchmark(name, "--steps", "2", "--model", small_model, *options)


def test_faithfulness_goes_on_where_it_was(run, tmp_path):
    options = ("--pairs", "1", "--edges", "5", "--random", "1")
    run("faithfulness", "--limit", "1", *options)
    records = tmp_path / "faithfulness.jsonl"
    before = records.read_text() + '{"place": 3, "tok'  # broken off here
    records.write_text(before)
    run("faithfulness", "--limit", "2", *options)
    assert records.read_text().startswith(before)
    figures = json.loads((tmp_path / "faithfulness.json").read_text())
    assert (figures["sentences"], figures["sentences_with_pairs"]) == (2, 1)
    assert len(figures["tokens"]["comprehensiveness mask"]) == 15
    assert "## Attention edges" in (tmp_path / "faithfulness.md").read_text()
    assert (tmp_path / "faithfulness.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="made with other settings"):
        run("faithfulness", "--limit", "1", "--edges", "6")


def test_every_number_that_may_be_explained_is_measured_by_the_same_two(run_benchmark, small_model, tmp_path):
    run_benchmark("outputs", "--limit", "2", "--model", small_model)
    figures = json.loads((tmp_path / "outputs.json").read_text())
    assert figures["sentences"] == 2
    for means in figures["means"].values():
        assert list(means) == [f"{path}, {kind}" for path in ("layerwise", "joint") for kind in OF_LABEL]
        assert len({mean for mean, _, _ in means.values()}) > 1
    assert "On the joint path, log-odds against the other numbers" in (tmp_path / "outputs.md").read_text()


def test_sanity_runs(run, tmp_path):
    run("sanity", "--limit", "1", "--some", "1", "--models", "1", "--train", "16", "--epochs", "1")
    figures = json.loads((tmp_path / "sanity.json").read_text())
    assert figures["padding"]["padding"] < 1e-9
    assert figures["padding"]["shares of padding"] == 0
    assert [row["part"] for row in figures["model"]] == [
        "as trained", "head", *(f"block {number}" for number in range(1, -1, -1)), "embeddings",
    ]  # fmt: skip
    assert figures["model"][0]["shares"] == pytest.approx(1)
    assert (tmp_path / "sanity.md").read_text().count("\n## ") == 6


def sample(values: dict[str, list[float]]):
    records = [{"part": {name: column[row] for name, column in values.items()}} for row in range(40)]
    return Sample(records, "part", lambda value: value)


def test_words_follow_the_intervals():
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 40))
    rows = {
        "good": noise[0] + 1,
        "bad": noise[1],
        "as bad": noise[2],
        "random 0": noise[3] - 1,
        "random 1": noise[3] + 1,
    }
    found = sample({name: list(row) for name, row in rows.items()})
    assert found.values["random"] == pytest.approx(noise[3])
    assert found.best(["bad", "good"]) == "good"
    assert found.best(["bad", "good"], lowest=True) in ("bad", "as bad")
    assert split_by_verdict(found, "good", ["bad", "as bad"]) == ["better than *bad* and *as bad*"]
    assert split_by_verdict(found, "good", ["bad"], lowest=True) == ["worse than *bad*"]
    assert split_by_verdict(found, "bad", ["good", "as bad"]) == [
        "not told apart from *as bad*",
        "worse than *good*",
    ]


def test_intervals_cover_the_mean():
    """Of many samples of a known mean, about 95% of the intervals hold it."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(60):
        mean, low, high = sample({"one": list(generator.normal(3, 1, 40))}).mean("one")
        assert low < mean < high
        held += low < 3 < high
    assert 50 <= held <= 60
