"""``captum-attattr heads`` and ``captum-attattr prune`` as a person and as a script use them."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
import transformers as hf
from agreement import assert_agree
from tiny_classifiers import bert, sizes
from tiny_classifiers import demo as load

from captum_attattr import demo
from captum_attattr.attention import mask_heads, remaining_heads
from captum_attattr.cli import main
from captum_attattr.files.writing import only_here
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.text.classifier import load_classifier

TEXTS = [("a warm funny film", 2), ("how unwatchable", 0), ("unfunny and unwatchable", 0), ("a film", 1)]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{text}\t{['sad', 'so-so', 'glad'][label]}\n" for text, label in TEXTS]
    Path("texts.tsv").write_text("sentence\tlabel\n" + "".join(rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = bert(id2label={0: "sad", 1: "so-so", 2: "glad"})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys):
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*words):
        capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def heads(run, model, *words):
    return run("heads", "--data", "texts.tsv", "--model", model, *words)


def expected(model, measure="attattr", texts=TEXTS, **options):
    loaded, tokenizer = load_classifier(model)
    return HeadImportance(loaded, measure=measure, **options).run(texts, tokenizer=tokenizer)


# heads


def test_the_table(run, model):
    code, out, err = heads(run, model)
    found = expected(model)
    assert (code, err) == (0, "")
    assert out.startswith("importance of heads by attattr, probability of the gold label, mean over 4 examples\n")
    power = int(re.search(r"in units of 1e(-?\d+), layers down, heads across", out)[1])
    heading, *rows = ([int(word) for word in row.split()] for row in re.findall(r"^ +(\d+(?: +-?\d+)+)$", out, re.M))
    assert heading == [0, 1]
    assert [row[0] for row in rows] == [0, 1, 2]
    for row, scores in zip(rows, found.scores.tolist()):
        assert row[1:] == pytest.approx([score / 10**power for score in scores], abs=0.51)
    best = found.ranking()[0]
    listed = f"layer {best.layer:>2}, head {best.head:>2}  {best.score:+.5f} +- {best.error:.5f}"
    assert listed in out.split("most important heads (+- standard error)\n")[1].split("\n")[0]
    assert "least important heads" in out


def test_the_files(run, model):
    heads(run, model, "--output", "new/folder", "--measure", "taylor")
    assert sorted(path.name for path in Path("new/folder").iterdir()) == ["heads.json", "heads.png"]
    assert Path("new/folder/heads.png").read_bytes().startswith(b"\x89PNG")
    found = Importance.load("new/folder/heads.json")
    assert_agree(found.scores.float(), expected(model, "taylor").scores.float())


def test_json(run, model):
    _, out, _ = heads(
        run, model, "--measure", "ablation_output", "--explain", "logit", "--target", "predicted", "--json"
    )
    found = json.loads(out)
    want = expected(model, "ablation_output", output="logit", target="predicted")
    assert_agree(torch.tensor(found["scores"]), want.scores.float(), size=1.0)  # differences of logits
    assert found["settings"]["output"] == "logit"
    assert found["settings"]["target"] == "predicted"
    assert found["files"] == {"picture": "heads/heads.png", "saved": "heads/heads.json"}


def test_the_predicted_label_needs_no_labels(run, model):
    Path("bare.tsv").write_text("sentence\na film\nhow unwatchable\n")
    code, _, _ = run("heads", "--data", "bare.tsv", "--model", model, "--target", "predicted", "--measure", "taylor")
    assert code == 0
    code, _, err = run("heads", "--data", "bare.tsv", "--model", model)
    assert (code, err) == (2, "captum-attattr: error: bare.tsv needs the column 'label': its columns are 'sentence'.\n")


def test_a_folder_its_splits_and_a_random_choice(run, model):
    Path("data").mkdir()
    rows = "".join(f"{'warm ' * (n + 1)}film\t{n % 3}\n" for n in range(20))
    Path("data/dev.tsv").write_text("sentence\tlabel\n" + rows)
    Path("data/test.tsv").write_text("sentence\tlabel\na film\t0\n")
    counts = []
    for words in ((), ("--split", "test"), ("--limit", "5"), ("--limit", "5", "--seed", "1")):
        _, out, _ = run("heads", "--data", "data", "--model", model, "--measure", "taylor", "--json", *words)
        counts.append((json.loads(out)["examples"], json.loads(out)["scores"]))
    assert [count for count, _ in counts] == [20, 1, 5, 5]
    assert counts[2] != counts[3]


def test_the_bundled_model_on_its_reviews(run):
    code, out, _ = run("heads", "--data", str(demo.REVIEWS), "--limit", "4", "--measure", "taylor", "--top", "2")
    assert code == 0
    assert "mean over 4 examples" in out
    assert len(re.findall(r"layer +\d+, head +\d+ +\+0\.\d{5} \+- 0\.\d{5}", out)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "none.tsv"], "none.tsv cannot be read"),
        (["--data", "wide.tsv"], "wide.tsv has no column 'sentence' or 'text'"),
        (["--data", "empty.tsv"], "empty.tsv holds no texts"),
        (["--data", "labels.tsv"], "has the label 'angry'; the model has 0 (sad), 1 (so-so), 2 (glad)"),
        (["--data", "texts.tsv", "--measure", "best"], "invalid choice: 'best'"),
        (["--data", "texts.tsv", "--limit", "0"], "'0' is not a whole number of at least 1"),
        (["--data", "texts.tsv", "--output", "texts.tsv"], "the output folder texts.tsv cannot be written"),
        ([], "the following arguments are required: --data"),
    ],
)
def test_bad_calls_of_heads(run, model, words, message):
    Path("wide.tsv").write_text("review\tlabel\na film\t0\n")
    Path("empty.tsv").write_text("sentence\tlabel\n")
    Path("labels.tsv").write_text("sentence\tlabel\na film\tangry\n")
    code, out, err = run("heads", "--model", model, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("heads/heads.json").exists()


# Broken off and taken up again


def main_in(folder, words):
    os.chdir(folder)
    sys.exit(main(words))


@pytest.fixture(scope="module")
def long_job(tmp_path_factory, model):
    """The words of a run over many batches, killed in the middle; and the state that was left."""
    folder = tmp_path_factory.mktemp("long")
    rows = "".join(f"{'warm ' * (n % 7 + 1)}film about film {n % 10}\t{n % 3}\n" for n in range(100))
    (folder / "long.tsv").write_text("sentence\tlabel\n" + rows)
    data = str(folder / "long.tsv")
    words = ["heads", "--data", data, "--model", model, "--batch-size", "1", "--measure", "taylor"]
    job = forked.processes.Process(target=main_in, args=(folder, [*words, "--output", "cut"]))
    job.start()
    state = folder / "cut" / "heads.state.json"
    deadline = time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["batches"] >= 5):
        assert job.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    job.kill()
    job.join()
    return folder, words, state.read_bytes()


@pytest.fixture
def killed(long_job, monkeypatch):
    folder, words, state = long_job
    monkeypatch.chdir(folder)
    (folder / "cut" / "heads.state.json").write_bytes(state)
    (folder / "cut" / "heads.json").unlink(missing_ok=True)
    return words, json.loads(state)


def test_killed_in_the_middle_and_given_again(run, killed, monkeypatch):
    words, state = killed
    done = state["batches"]
    assert 5 <= done < 100
    assert state["moments"]["count"] == done
    measured, own = [], HeadImportance._add
    monkeypatch.setattr(HeadImportance, "_add", lambda self, *given: (measured.append(1), own(self, *given)))
    _, resumed, _ = run(*words, "--output", "cut", "--json")
    assert len(measured) == 100 - done  # nothing is done twice
    _, unbroken, _ = run(*words, "--output", "whole", "--json")
    resumed, unbroken = json.loads(resumed), json.loads(unbroken)
    assert resumed["examples"] == unbroken["examples"] == 100
    for name in ("scores", "standard_deviation"):  # by another process, with another number of threads
        assert_agree(torch.tensor(resumed[name]), torch.tensor(unbroken[name]))
    assert sorted(path.name for path in Path("cut").iterdir()) == ["heads.json", "heads.png"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--measure", "attention"], "the measure was"),
        (["--explain", "logit"], "the output was 'probability', now it is 'logit'"),
        (["--logit"], "the output was 'probability', now it is 'logit'"),
        (["--target", "predicted"], "the target was 'gold', now it is 'predicted'"),
        (["--limit", "30"], "the number of examples was 100, now it is 30"),
        (["--batch-size", "2"], "the batch size was 1, now it is 2"),
        (["--model", "other"], "the model's"),
        (["--data", "other.tsv"], "the data was"),
    ],
)
def test_a_run_with_other_settings_is_not_taken_up(run, killed, more, message):
    words, _ = killed
    Path("other.tsv").write_text(Path("long.tsv").read_text().replace("film 9\t", "film 8\t"))
    other, tokenizer = bert(id2label={0: "sad", 1: "so-so", 2: "glad"}, initializer_range=0.5)
    other.save_pretrained("other")
    tokenizer.save_pretrained("other")
    before = Path("cut/heads.state.json").read_bytes()
    code, _, err = run(*words, "--output", "cut", *more)
    assert code == 2
    assert "is of a run with other settings" in err
    assert message in err
    assert Path("cut/heads.state.json").read_bytes() == before


def test_a_state_that_another_process_writes_is_left_alone(run, model):
    with only_here("heads/heads.state.json"):
        code, out, err = heads(run, model)
    assert (code, out) == (2, "")
    assert "heads/heads.state.json is in use by another process" in err
    assert not Path("heads/heads.json").exists()


@pytest.fixture
def regression():
    """A tiny regression model in a folder, and texts with numbers."""
    for part in bert(num_labels=1):
        part.save_pretrained("one")
    Path("texts.tsv").write_text("sentence\tlabel\na film\t0.5\nhow unwatchable\t-2.25\n")
    return "one"


def test_heads_of_a_regression_model(run, regression):
    code, out, err = heads(run, regression)
    assert (code, err) == (0, "")
    assert out.startswith("importance of heads by attattr, the model's output, mean over 2 examples\n")
    found = Importance.load("heads/heads.json")
    assert found.settings["output"] == "given"
    assert found.scores.max() > 1e-3
    code, _, err = heads(run, regression, "--measure", "ablation_accuracy")
    assert code == 2
    assert "use the measure 'ablation_output'" in err


def test_a_regression_model_has_no_accuracy_before_and_after(run, regression):
    heads(run, regression)
    code, _, err = prune(run, regression, "--keep", "0.5", "--data", "texts.tsv")
    assert code == 2
    assert "has one label, or none (regression), and so no accuracy: leave --data out" in err
    assert prune(run, regression, "--keep", "0.5")[0] == 0


# prune


@pytest.fixture
def measured(run, model):
    heads(run, model, "--measure", "taylor")
    return Importance.load("heads/heads.json")


def prune(run, model, *words):
    return run("prune", "--importance", "heads/heads.json", "--model", model, *words)


def test_half_of_the_heads(run, model, measured):
    whole, tokenizer = load_classifier(model)
    code, out, _ = prune(run, model, "--keep", "0.5", "--data", "texts.tsv", "--output", "half")
    small, _ = load_classifier("half")
    before, after = whole.num_parameters(), small.num_parameters()
    assert code == 0
    assert "heads       6 -> 3\n" in out
    assert f"parameters  {before:,} -> {after:,} ({after / before - 1:+.1%})" in out
    assert after < before
    assert out.endswith("  saved       half\n")
    gone = measured.lowest(0.5, "l2")
    assert sum(map(len, remaining_heads(small))) == 3
    assert all(head not in remaining_heads(small)[layer] for layer, head in gone)
    batch = tokenizer([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in TEXTS])
    with torch.no_grad(), mask_heads(whole, gone):
        masked = whole(**batch).logits
    with torch.no_grad():
        torch.testing.assert_close(small(**batch).logits, masked, rtol=1e-4, atol=1e-5)
        clean = whole(**batch).logits
    accuracies = [float((logits.argmax(-1) == labels).float().mean()) for logits in (clean, masked)]
    assert f"accuracy    {accuracies[0]:.4f} -> {accuracies[1]:.4f} (4 texts)" in out


def test_the_best_heads_of_each_layer(run, model, measured):
    _, out, _ = prune(run, model, "--top", "1", "--json")
    found = json.loads(out)
    assert found["removed"] == [list(head) for head in measured.outside_top(1)]
    assert (found["before"]["heads"], found["after"]["heads"]) == (6, 3)
    assert "accuracy" not in found["before"]
    assert [len(layer) for layer in remaining_heads(load_classifier("pruned")[0])] == [1, 1, 1]


def test_layers_are_normalised_unless_that_is_not_wanted(run, model, measured):
    for option, normalize in (([], "l2"), (["--normalize"], "l2"), (["--no-normalize"], None)):
        _, out, _ = prune(run, model, "--keep", "0.5", "--json", *option)
        assert json.loads(out)["removed"] == [list(head) for head in measured.lowest(0.5, normalize)]


def test_a_pruned_model_is_measured_and_pruned_again(run, model, measured):
    prune(run, model, "--keep", "0.5", "--output", "half")
    code, out, _ = run("heads", "--data", "texts.tsv", "--model", "half", "--measure", "taylor")
    assert code == 0
    assert re.search(r"^    .* -( |$)", out, re.M)  # the places of heads that are gone
    code, out, _ = prune(run, "half", "--keep", "0.34", "--output", "third")
    assert "heads       3 -> 1\n" in out
    assert sum(map(len, remaining_heads(load_classifier("third")[0]))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --keep --top is required"),
        (["--keep", "0.5", "--top", "1"], "not allowed with argument"),
        (["--keep", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--keep", "half"], "'half' is not a number from 0 to 1"),
        (["--top", "0"], "'0' is not a whole number of at least 1"),
        (["--keep", "0.5", "--importance", "none.json"], "none.json cannot be read"),
        (["--keep", "0.5", "--importance", "texts.tsv"], "texts.tsv is no saved importance"),
        (["--keep", "0.5", "--data", "none.tsv"], "none.tsv cannot be read"),
    ],
)
def test_bad_calls_of_prune(run, model, measured, words, message):
    code, out, err = prune(run, model, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("pruned/config.json").exists()


def test_the_importance_of_another_model(run, model, measured):
    code, _, err = run("prune", "--importance", "heads/heads.json", "--keep", "0.5")
    assert code == 2
    assert "The importance is of a model with 3 layers of 2 heads, this one has 6 of 12" in err
    assert not Path("pruned/config.json").exists()


def test_a_family_that_cannot_be_pruned(run):
    torch.manual_seed(0)
    tokenizer = load()[1]
    albert = hf.AlbertForSequenceClassification(hf.AlbertConfig(**sizes(tokenizer, embedding_size=8, pad_token_id=0)))
    albert.save_pretrained("albert")
    tokenizer.save_pretrained("albert")
    scores = torch.rand(1, 2)
    Importance(scores, scores, 2, "taylor", {}).save("heads/heads.json")
    code, _, err = prune(run, "albert", "--keep", "0.5")
    assert code == 2
    assert "captum-attattr: error: " in err
    assert not Path("pruned/config.json").exists()


def test_help_has_examples(run):
    for command in ("heads", "prune"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"  captum-attattr {command} --" in out
