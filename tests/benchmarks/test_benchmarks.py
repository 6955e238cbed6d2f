"""Benchmarks that have no test file of their own run on little, and broken runs go on."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import benchmarks
from benchmarks.setup import sized_models
from benchmarks.setup.meter import Meter
from benchmarks.setup.results import Store
from benchmarks.setup.spent import spent
from captum_attattr import SelfAttentionAttribution
from captum_attattr.arguments import check_count
from captum_attattr.demo import REVIEWS, load_demo

FOLDER = Path(benchmarks.__file__).parent
QUESTIONS = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - {"setup"})


def refuse():
    raise AssertionError("was worked out before")


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_is_listed_and_has_help(name, run_benchmark, capsys):
    assert f"\n* ``{name}``: " in benchmarks.__doc__
    with pytest.raises(SystemExit) as end:
        run_benchmark(name, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m benchmarks.{name} ")
    assert f"\n    python -m benchmarks.{name}" in text


def test_commands_in_documents_lead_to_a_benchmark():
    documents = [*FOLDER.glob("results/*.md"), *FOLDER.parent.glob("*.md")]
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    commands = re.findall(r"python\s+-m\s+(benchmarks\.[a-z_]+)", text)
    assert len(set(commands)) >= 10
    assert [name for name in commands if importlib.util.find_spec(name) is None] == []


def test_a_store_goes_on_where_it_was_broken_off(tmp_path):
    store = Store(tmp_path / "new" / "run.jsonl", {"seed": 0, "sizes": (1, 2)})
    assert store.get("one", lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    with store.file.open("a") as lines:
        lines.write('["two", {"a')  # broken off here
    again = Store(store.file, {"seed": 0, "sizes": (1, 2)})
    assert again.get("one", refuse) == {"a": [1, 2]}
    assert again.get("two", lambda: 2) == 2
    third = Store(store.file, {"seed": 0, "sizes": (1, 2)})
    assert third.results == {"one": {"a": [1, 2]}, "two": 2}
    before = store.file.read_bytes()
    with pytest.raises(SystemExit, match="made with other settings"):
        Store(store.file, {"seed": 1, "sizes": (1, 2)})
    assert store.file.read_bytes() == before


@pytest.mark.in_turn
def test_tolerance(run_benchmark, monkeypatch, tmp_path):
    options = ("--data", str(REVIEWS), "--limit", "3", "--reference", "16", "--batch-size", "2")
    with monkeypatch.context() as broken_off:
        broken_off.setattr(Store, "finish", lambda *_: refuse())
        with pytest.raises(AssertionError):
            run_benchmark("tolerance", *options)
    monkeypatch.setattr(SelfAttentionAttribution, "attribute", lambda *_, **__: refuse())  # all of it is kept
    run_benchmark("tolerance", *options)
    figures = json.loads((tmp_path / "tolerance.json").read_text())
    assert figures["sentences"] == 3
    for output in ("probability", "logit"):
        assert figures[output]["pairs"] == 18
        assert figures[output]["worst"] < 2e-2
        assert 3 <= figures[output]["evaluations"] <= 20
    assert "| pairs above 2e-2 | 0 | 0 |" in (tmp_path / "tolerance.md").read_text()


@pytest.mark.in_turn
def test_speed(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(sized_models.SIZES, "BERT-base size", (2, 24, 12))
    monkeypatch.setattr("benchmarks.speed.growth.growth", lambda *_: {"layers": [(2, 0.1)]})
    run_benchmark("speed", "--sizes", "BERT-base size", "--tokens", "8", "--batch", "1", "2", "--repeats", "1")
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert figures["same_work"]["relative_difference"] < 1e-4
    assert [cell["batch"] for cell in figures["cells"]] == [1, 2]
    assert all(cell["ours_seconds"] > 0 and cell["by_hand_64_seconds"] > 0 for cell in figures["cells"])
    assert "## Growth" in (tmp_path / "speed.md").read_text()


@pytest.mark.in_turn
def test_gpu(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no GPU"):
        run_benchmark("gpu")
    run_benchmark("gpu", "--quick", "--patience", "0")
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert (len(figures["classifier"]), len(figures["decoder"])) == (12, 4)
    assert all(case["seconds"] > 0 for case in figures["classifier"] + figures["decoder"])
    assert next(case["rows"] for case in figures["classifier"] if "injected" in case["how"]) in (16, 64)
    assert all(case["gap"] < 1e-2 for case in figures["decoder"] if case["dtype"] == "float32")
    assert "| float32 | 1 | injected attention, 64 steps | ~" in (tmp_path / "gpu.md").read_text()


def test_the_fastest_of_the_sizes_that_fit():
    def work(size):
        if size > 2:
            raise torch.OutOfMemoryError
        time.sleep(0.04 / size)

    assert Meter("cpu", 1, 10).fastest(work, {4, 2, 1})[0] == 2


@pytest.mark.in_turn
def test_trials(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(sized_models.SIZES, "BERT-base size", (2, 24, 12))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # takes a minute, and a C++ compiler
    run_benchmark("trials", "--limit", "2", "--repeats", "1")
    found = json.loads((tmp_path / "trials.json").read_text())["found"]
    assert 0 < found["bfloat16, error"]["median error"] < 0.1
    assert found["compile"]["largest relative difference"] < 1e-4
    assert sum(found["profile"]["shares"].values()) == pytest.approx(1)
    assert "## Several layers in one batch" in (tmp_path / "trials.md").read_text()


@pytest.mark.in_turn
def test_rows_left_out(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(sized_models.SIZES, "BERT-base size", (2, 24, 12))
    run_benchmark("rows_left_out", "--most", "32", "--repeats", "1")
    found = json.loads((tmp_path / "rows_left_out.json").read_text())["found"]
    assert len(found) == 4
    assert all(0.2 < one["times"] < 5 for one in found.values())


def test_backends(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(sized_models.SIZES, "BERT-base size", (2, 24, 12))
    run_benchmark("backends", "--most", "8", "--repeats", "1")
    found = json.loads((tmp_path / "backends.json").read_text())["found"]
    assert len(found) == 2
    assert all(-0.7 < one["more"] < 3 and one["error"] < 1e-4 for one in found.values())


@pytest.mark.in_turn
def test_explain_speed(run_benchmark, small_model, tmp_path):
    run_benchmark("explain_speed", "--data", str(REVIEWS), "--limit", "4", "--repeats", "1", "--model", small_model)
    found = json.loads((tmp_path / "explain_speed.json").read_text())["found"]
    assert found["start"]["from_pretrained alone"]["times"] == 1
    assert 0.5 < found["start"]["captum-attattr explain"]["times"] < 3
    for path in ("layerwise", "joint"):
        assert found[path]["sentences"] == 4
        assert sum(found[path]["shares"].values()) == pytest.approx(1)
        assert {"forward", "backward"} < set(found[path]["shares"])
        assert 0 < found[path]["beside"] < 1
    assert "## Many sentences" in (tmp_path / "explain_speed.md").read_text()


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_spent_counts_passes_apart_from_what_is_beside_them(monkeypatch):
    class Slow(torch.nn.Identity):
        def forward(self, given):
            busy(0.1)
            return given * 1.0

    model = torch.nn.Sequential(Slow())
    monkeypatch.setattr("captum_attattr.arguments.isinstance", lambda *_: busy(0.2) or isinstance(*_), raising=False)

    def work():
        model(torch.ones(2))
        check_count("work", 1)

    found = spent(work)
    assert found["forward"] == pytest.approx(0.1, rel=0.3)
    assert found["arguments.py"] >= 0.2
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


@pytest.mark.in_turn
def test_memory(tmp_path):
    command = [sys.executable, "-m", "benchmarks.memory", "--sizes", "--tokens", "256", "--threads", "1"]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "memory.json").read_text())["long"]["256"]
    assert all(found[how]["mebibytes"] > 0 for how in ("pass", "layerwise", "joint"))
    assert found["joint"]["evaluations"] >= 4


def test_soak(run_benchmark, tmp_path):
    run_benchmark("soak", "--count", "3", "--settled", "1", "--most", "12", "--allowed", "1")
    found = json.loads((tmp_path / "soak.json").read_text())
    assert len(found["MiB"]) == 3
    assert found["hooks and attributes more than before"] == 0


def test_pruning(run_benchmark, small_model, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    # As in SST-2, a full stop is a word of its own.
    reviews = REVIEWS.read_text(encoding="utf-8").replace(".\t", " .\t")
    for split in ("test", "dev"):
        (folder / f"{split}.tsv").write_text(reviews, encoding="utf-8")
    options = ("--limit", "4", "--examples", "4", "--stability", "10", "--seeds", "1", "--model", small_model)
    run_benchmark("pruning", "--data", str(folder), *options)
    figures = json.loads((tmp_path / "pruning.json").read_text())
    assert {"attattr", "taylor", "attention", "ablation", "random 0"} <= set(figures["curves"])
    assert all(0 <= accuracy <= 1 for accuracy in figures["curves"]["attattr"]["accuracy"])
    assert (tmp_path / "pruning.png").stat().st_size > 10_000


@pytest.mark.in_turn
def test_convergence(run_benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.convergence.cases.METHODS", ("riemann_left", "gausslegendre"))
    monkeypatch.setattr("benchmarks.convergence.cases.STEPS", (8, 32))
    monkeypatch.setattr("benchmarks.convergence.cases.TOLERANCES", (0.01, 0.001))
    (tmp_path / "one.tsv").write_text("sentence\nA dull film.\n")
    run_benchmark("convergence", "--data", str(tmp_path / "one.tsv"), "--limit", "1", "--reference", "32")
    found = json.loads((tmp_path / "convergence.json").read_text())["figures"]
    assert set(found) == {f"{output} {path}" for output in ("probability", "logit") for path in ("layerwise", "joint")}
    for group, entries in found.items():
        assert entries["gausslegendre 32"]["worst"] < 1e-4
        assert entries["tolerance 0.001"]["worst"] < 5e-3
        assert entries["gausslegendre 8"]["median"] < entries["riemann_left 32"]["median"]
        assert ("by hand 64" in entries) == ("layerwise" in group)
    ours, hand = (found["probability layerwise"][what] for what in ("tolerance 0.01", "by hand 64"))
    assert ours["worst"] < hand["worst"]
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    assert "F = logit, joint" in (tmp_path / "convergence.md").read_text()


@pytest.mark.in_turn
def test_rough_paths(run_benchmark, tmp_path):
    small = ("--examples", "1", "--training", "2", "--layers", "0", "--reference", "1e-3")
    run_benchmark("rough_paths", "--models", "t5", "gemma3", *small)
    models = json.loads((tmp_path / "rough_paths.json").read_text())["models"]
    for name in ("T5 encoder", "Gemma 3"):
        (layer,), (joint,) = models[name]["layerwise"], models[name]["joint"]
        assert all(0 < path["error"] < 1e-2 and path["converged"] for path in (layer, joint))
        assert 0 < models[name]["reference"][0] < 1e-2
    assert "| Gemma 3, joint | 1 of 1 |" in (tmp_path / "rough_paths.md").read_text()


@pytest.fixture
def language_model(tmp_path):
    """A folder with a small decoder, of random weights."""
    _, tokenizer = load_demo()
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=3, initializer_range=0.3, **size))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_rough_joint(run_benchmark, language_model, tmp_path):
    run_benchmark("rough_joint", "--folder", str(language_model), "--examples", "2", "--name", "a small decoder")
    prompts = json.loads((tmp_path / "rough_joint.json").read_text())["prompts"]
    assert len(prompts) == 2
    for prompt in prompts:
        assert prompt["all"]["layers"] == 3
        assert prompt["others"]["layers"] == 3 - prompt["left out"]
        assert max(prompt["all"]["looks"]) > max(prompt["random"]["looks"])
    assert "a small decoder, 2 prompts" in (tmp_path / "rough_joint.md").read_text()
