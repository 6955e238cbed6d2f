"""``captum-attattr triggers`` as a person uses it, and the benchmark of triggers on a few texts."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from agreement import assert_alike
from tiny_classifiers import bert
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import captum_attattr.cli.triggers as command
from captum_attattr.cli import main
from captum_attattr.demo import REVIEWS
from captum_attattr.files.examples import read_examples
from captum_attattr.files.writing import only_here
from captum_attattr.triggers import attack, extract_triggers, load_triggers


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = REVIEWS.read_text(encoding="utf-8").splitlines(keepends=True)
    Path("reviews.tsv").write_text("".join(lines[:1] + lines[1:7] + lines[-6:]), encoding="utf-8")
    Path("data").mkdir()
    Path("data/train.tsv").write_text("".join(lines[:20] + lines[-20:]), encoding="utf-8")
    Path("data/test.tsv").write_text("".join(lines[:1] + lines[20:25] + lines[35:40]), encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in bert(id2label={0: "bad", 1: "good"}, num_labels=2):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys, model):
    """Run the command in this process: exit code, standard output, standard error."""

    def run(*words):
        capsys.readouterr()
        try:
            code = main(["triggers", *([] if "--model" in words else ["--model", model]), *words])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def plain(triggers):
    return [vars(trigger) for trigger in triggers]


def loaded(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_what_is_found_is_what_the_functions_find(run, model):
    code, out, err = run("--data", "reviews.tsv", "--attack", "data", "--threshold", "-1", "--top", "2")
    assert (code, err) == (0, "")
    examples, others = read_examples("reviews.tsv"), read_examples("data", labelled=True)
    expected = extract_triggers(examples, *loaded(model), top=2, threshold=-1)
    assert_alike(plain(load_triggers("triggers/triggers.json")), plain(expected))
    result = attack(others, expected, *loaded(model))
    assert json.loads(Path("triggers/attack.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    for trigger, after in zip(expected, result.after):
        assert f"    {trigger.score:.4f}  {' ... '.join(trigger.words)}  (layer {trigger.layer}, " in out
        assert re.search(
            rf"    {after.total:.3f} .*  {re.escape(' ... '.join(trigger.words))} \({trigger.label}\)\n", out
        )
    assert "found in 12 texts" in out
    assert f"    {result.before.total:.3f}  " in out
    assert "saved  triggers/triggers.json" in out
    assert "saved  triggers/attack.json" in out


def test_the_bundled_model_is_the_default(capsys):
    Path("two.tsv").write_text("sentence\nA warm, funny film.\nA dull and lifeless mess.\n")
    assert main(["triggers", "--data", "two.tsv"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\n  negative\n    0\.\d{4}  .*\n\n  positive\n    0\.\d{4}  ", out)


def test_a_choice_of_long_enough_texts(run):
    assert run("--data", "data", "--min-words", "12", "--limit", "5", "--seed", "3", "--output", "a")[0] == 0
    rows = [json.loads(line) for line in Path("a/patterns.jsonl").read_text().splitlines()[1:]]
    sources = [row["trigger"]["source"] for row in rows if row["trigger"]]
    assert len(rows) == 5
    assert sources
    assert all(len(source.split()) >= 12 for source in sources)
    assert set(sources) <= {example.text for example in read_examples("data", "train")}
    run("--data", "data", "--min-words", "12", "--limit", "5", "--seed", "4", "--output", "b")
    assert Path("a/patterns.jsonl").read_text() != Path("b/patterns.jsonl").read_text()


def test_what_was_broken_off_goes_on(run, monkeypatch):
    assert run("--data", "reviews.tsv", "--output", "whole")[0] == 0
    each = command.each_pattern

    def interrupted(*words, **options):
        yield next(each(*words, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "each_pattern", interrupted)
    assert run("--data", "reviews.tsv", "--output", "parts")[0] == 130
    monkeypatch.setattr(command, "each_pattern", each)
    with open("parts/patterns.jsonl", "a") as journal:
        journal.write('{"text": 3, "trig')  # the line that was being written
    code, _, err = run("--data", "reviews.tsv", "--output", "parts")
    assert (code, err) == (0, "captum-attattr: 8 of 12 texts were searched before\n")
    for name in ("patterns.jsonl", "triggers.json"):
        parts, whole = (Path(folder, name).read_text() for folder in ("parts", "whole"))
        rows = str.splitlines if name.endswith("jsonl") else lambda text: [text]
        assert_alike(*([json.loads(row) for row in rows(text)] for text in (parts, whole)))


def test_what_was_searched_is_not_searched_again(run, monkeypatch):
    run("--data", "reviews.tsv", "--threshold", "-1")
    monkeypatch.setattr("captum_attattr.triggers.extraction._patterns", None)
    code, out, err = run("--data", "reviews.tsv", "--threshold", "-1", "--top", "1", "--attack", "reviews.tsv")
    assert (code, err) == (0, "captum-attattr: 12 of 12 texts were searched before\n")
    assert "accuracy on 12 texts" in out


@pytest.mark.parametrize("change", ["texts", "steps", "weights"])
def test_what_belongs_to_other_work_is_not_taken_up(run, change, tmp_path):
    for part in bert(num_labels=2):
        part.save_pretrained("own")
    words = ["--data", "reviews.tsv", "--model", "own"]
    assert run(*words)[0] == 0
    if change == "weights":
        other = loaded("own")[0]
        with torch.no_grad():
            other.classifier.bias += 1
        other.save_pretrained("own")
    new = {"texts": ["--limit", "3"], "steps": ["--steps", "2"], "weights": []}[change]
    name = {"weights": "model"}.get(change, change)
    code, out, err = run(*words, *new)
    assert (code, out) == (2, "")
    assert f"triggers/patterns.jsonl is of a run with other settings: there the {name} was " in err
    assert "remove it or give another --output" in err


def test_a_damaged_journal_is_named(run):
    run("--data", "reviews.tsv")
    with open("triggers/patterns.jsonl", "a") as journal:
        journal.write("what\n")
    code, _, err = run("--data", "reviews.tsv")
    assert code == 2
    assert "triggers/patterns.jsonl is damaged: remove it, or give another --output" in err


def test_a_journal_that_another_process_writes_is_left_alone(run):
    with only_here("triggers/patterns.jsonl"):
        code, out, err = run("--data", "reviews.tsv")
    assert (code, out) == (2, "")
    assert "triggers/patterns.jsonl is in use by another process: wait until it is done" in err
    assert not Path("triggers/patterns.jsonl").exists()


def test_pairs_of_texts(run):
    Path("pairs.tsv").write_text("sentence\tpair\tlabel\nA film.\tIt is long.\tgood\nSo dull.\tIt is short.\tbad\n")
    code, out, _ = run("--data", "pairs.tsv", "--attack", "pairs.tsv", "--threshold", "-1")
    assert code == 0
    assert "accuracy on 2 texts" in out


def test_progress_goes_to_standard_error_where_someone_looks(run, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, _, err = run("--data", "reviews.tsv", "--attack", "reviews.tsv", "--threshold", "-1")
    assert code == 0
    assert "Finding triggers: 100%" in err
    assert "Attacking: 100%" in err


BAD = {
    "no data": ([], "the following arguments are required: --data"),
    "no file": (["--data", "none.tsv"], "none.tsv cannot be read"),
    "too short": (["--data", "reviews.tsv", "--min-words", "99"], "has 99 words or more: lower --min-words"),
    "no labels": (["--data", "reviews.tsv", "--attack", "plain.tsv"], "plain.tsv needs the column 'label'"),
    "unknown label": (["--data", "reviews.tsv", "--attack", "odd.tsv"], "has the label '7'"),
    "nothing found": (["--data", "reviews.tsv", "--threshold", "9", "--attack", "data"], "triggers is an empty list"),
    "limit": (["--data", "reviews.tsv", "--limit", "0"], "'0' is not a whole number of at least 1"),
    "no model": (["--data", "reviews.tsv", "--model", "./none"], "no folder"),
    "output is a file": (
        ["--data", "reviews.tsv", "--output", "odd.tsv"],
        "the output folder odd.tsv cannot be written",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_exit_code_2_and_a_message_on_standard_error(run, words, message):
    Path("plain.tsv").write_text("sentence\na film\n")
    Path("odd.tsv").write_text("sentence\tlabel\na film\t7\n")
    code, _, err = run(*words)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_bad_label_is_told_before_the_search(run):
    Path("odd.tsv").write_text("sentence\tlabel\na film\t7\n")
    run("--data", "reviews.tsv", "--attack", "odd.tsv")
    assert not Path("triggers/patterns.jsonl").exists()


def test_help_shows_examples(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "\n  captum-attattr triggers --data reviews.tsv --output triggers\n" in out


# The benchmark


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Run it in this process: its figures."""

    def run(*words):
        settings = "--data data --limit 4 --words 6 --top 1 --token-steps 4 --steps 2 --seeds 2 --output results"
        monkeypatch.setattr("sys.argv", ["triggers", *settings.split(), *words])
        runpy.run_module("benchmarks.triggers", run_name="__main__")
        assert capsys.readouterr().out == Path("results/triggers.md").read_text() + "\n"
        return json.loads(Path("results/triggers.json").read_text())

    return run


def test_the_benchmark_measures_all_methods_and_goes_on_where_it_was_broken_off(benchmark):
    figures = benchmark()
    results = Path("results")
    assert sorted(path.name for path in results.iterdir()) == ["triggers.json", "triggers.md", "triggers.png"]
    for one in figures["rounds"]:
        assert {row["method"] for row in one["triggers"]} == set(figures["summary"])
        assert all(0 <= row["others_after"] <= 1 for row in one["triggers"])
    report = (results / "triggers.md").read_text()
    assert all(f"| {method} |" in report for method in figures["summary"])
    # A first round with made-up figures is taken as done, the second is worked out again.
    made_up = [{**row, "others_after": 0.125} for row in figures["rounds"][0]["triggers"]]
    kept = [["settings", figures["settings"]], ["0: attack", made_up]]
    (results / "triggers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    again = benchmark()
    assert_alike([one["triggers"] for one in again["rounds"]], [made_up, figures["rounds"][1]["triggers"]])
    assert again["summary"]["attention attribution"]["mean"][0] == 0.125
    assert not (results / "triggers.jsonl").exists()


def test_the_benchmark_with_a_model_that_has_no_triggers(benchmark, model):
    figures = benchmark("--model", model)
    assert figures["summary"]["attention attribution"]["triggers"] == 0
    assert "Attention attribution found no trigger above the threshold" in Path("results/triggers.md").read_text()


def test_the_benchmark_does_not_take_up_other_work(benchmark):
    Path("results").mkdir()
    Path("results/triggers.jsonl").write_text('["settings", {}]\n')
    with pytest.raises(SystemExit, match="was made with other settings"):
        benchmark()
