"""``captum-attattr explain`` as a person and as a script use it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tiny_classifiers import bert

from captum_attattr import Explanation
from captum_attattr.cli import main
from captum_attattr.cli.explain import describe
from captum_attattr.text.explaining import Explainer

TEXT = "The plot was interesting but the execution was poor."
COMMAND = Path(sys.executable).parent / "captum-attattr"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder, for what does not depend on the model."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = bert(id2label={0: "sad", 1: "so-so", 2: "glad"}, max_position_embeddings=32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command in this process, with blank pictures: exit code, standard output, standard error."""
    monkeypatch.setattr("captum_attattr.cli.explain.visualize_explanation", lambda _: (Figure(figsize=(1, 1)), []))

    def run(*words):
        capsys.readouterr()
        try:
            code = main(["explain", *words])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def as_json(run, *words):
    code, out, _ = run(*words, "--json")
    assert code == 0
    return json.loads(out)


# The answer


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """What the README's command prints, and the folder that it was run in."""
    folder, out, err = tmp_path_factory.mktemp("main job"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        code = main(["explain", TEXT])
    return code, out.getvalue(), err.getvalue(), folder


def test_the_main_job(main_job):
    code, out, err, _ = main_job
    assert (code, err) == (0, "")
    assert out.startswith(f'"{TEXT}"\n  prediction  negative (probability 0.9')
    assert "  explained   probability of 'negative', 0.9" in out
    assert re.search(r"  \+0\.\d{4}  \[CLS\] -> poor\n", out)
    assert re.search(r"  \+0\.\d{4}  layer 5, head \d+\n", out)
    assert "without a layer's attention + its attributions = probability of 'negative' (error " in out


def test_each_layer_s_numbers_add_up(main_job):
    _, out, _, _ = main_job
    rows = re.findall(r"layer (\d)  (\S+) ([+-]) (\S+) = (\S+)\n", out)
    assert [int(layer) for layer, *_ in rows] == [0, 1, 2, 3, 4, 5]
    for _, start, sign, attributions, total in rows:
        assert float(start) + float(sign + attributions) == pytest.approx(float(total), abs=2e-4)


def test_the_answer_names_its_files(main_job):
    _, out, _, folder = main_job
    stem = "explanations/001-the-plot-was-interesting-but-the"
    assert f"picture  {stem}.png\n" in out
    assert f"saved    {stem}.safetensors\n" in out
    assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert Explanation.load(folder / f"{stem}.safetensors").text == TEXT


def test_the_installed_command():
    done = subprocess.run([COMMAND, "explain", TEXT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "prediction  negative" in done.stdout
    assert len(list(Path("explanations").iterdir())) == 2


def test_strongest_pairs_and_heads_with_their_signs(run, model):
    _, out, _ = run("A film, a warm film!", "--model", model, "--top", "5")
    explanation = Explanation.load(next(Path("explanations").glob("*.safetensors")))
    names = explanation.token_names
    pairs = [f"{p.score:+.4f}  {names[p.query]} -> {names[p.key]}" for p in explanation.top_pairs(5)]
    heads = [f"{h.score:+.4f}  layer {h.layer}, head {h.head}" for h in explanation.top_heads(5)]
    assert [line.strip() for line in out.splitlines() if " -> " in line][1:] == pairs
    assert [line.strip() for line in out.splitlines() if ", head " in line] == heads


def test_pairs_with_special_tokens_are_left_out_on_request(run, model):
    _, out, _ = run("a film", "--model", model)
    assert "[CLS] -> " in out
    _, out, _ = run("a film", "--model", model, "--no-special")
    assert "[CLS]" not in out
    assert "film -> a" in out


def test_several_texts_are_answered_in_their_order(run, model):
    texts = ["so long as it is not too long", "dull", "a warm film"]
    _, out, _ = run(*texts, "--model", model)
    assert [line.strip('"') for line in out.splitlines() if line.startswith('"')] == texts
    assert [path.stem for path in sorted(Path("explanations").glob("*.png"))] == [
        "001-so-long-as-it-is-not", "002-dull", "003-a-warm-film",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["\u96fb\u5f71!", "../../x", "a/b", "-- $HOME *", "x" * 300, "CON: \n nul"])
def test_file_names_are_safe_whatever_the_text(run, model, text):
    code, _, err = run("--model", model, "--output", "here", "--", text)
    assert (code, err) == (0, "")
    names = [path.name for path in Path("here").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"001-[a-z0-9-]{1,60}\.(png|safetensors)", name) for name in names)


def test_a_long_text_is_named_in_short(run, model):
    _, out, _ = run("long " * 15 + "\n" + "longer " * 50, "--model", model)
    first = out.splitlines()[0]
    assert first.startswith('"long long ')
    assert first.endswith('..."')
    assert len(first) == 202


def test_characters_that_the_terminal_lacks_are_escaped(model, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["explain", "caf\u00e9 \u96fb", "--model", model]) == 0
    assert written.getvalue().startswith(b'"caf\\xe9 \\u96fb"\n')


# Options


def test_json_is_all_there_is_on_standard_output(run, model):
    code, out, err = run("a film", "--model", model, "--json", "--top", "1")
    assert (code, err) == (0, "")
    (answer,) = json.loads(out)
    assert answer["text"] == "a film"
    assert answer["tokens"] == ["[CLS]", "a", "film", "[SEP]"]
    assert answer["prediction"] == answer["target"]
    assert answer["top_pairs"][0]["from"] in answer["tokens"]
    assert [len(answer["head_scores"]), len(answer["head_scores"][0])] == [3, 2]
    assert Explanation.load(answer["files"]["saved"]).output == answer["output"]
    assert Path(answer["files"]["picture"]).is_file()


def test_json_of_several_texts_is_a_list_in_their_order(run, model):
    texts = ["so long as it is", "dull", "\u96fb\u5f71"]
    answers = as_json(run, *texts, "--model", model, "--top", "2", "--no-special")
    assert [answer["text"] for answer in answers] == texts
    assert [len(answer["top_pairs"]) for answer in answers] == [2, 1, 2]
    assert [len(answer["top_heads"]) for answer in answers] == [2, 2, 2]


HOW = {
    "target by name": (["--target", "sad"], {"target": "sad"}, {}),
    "target by number": (["--target", "2"], {"target": "glad"}, {}),
    "logit": (["--explain", "logit"], {}, {"output": "logit"}),
    "probability": (["--explain", "probability"], {}, {"output": "probability"}),
    "logit, as it was spelled before": (["--logit"], {}, {"output": "logit"}),
    "joint path": (["--path", "joint"], {}, {"path": "joint"}),
    "rule": (["--method", "riemann_middle"], {}, {"method": "riemann_middle"}),
    "steps": (["--steps", "3"], {}, {"n_steps": 3}),
    "nothing": ([], {}, {"output": "probability", "path": "layerwise", "method": "gausslegendre", "n_steps": 1000}),
}


@pytest.mark.parametrize(("words", "fields", "settings"), HOW.values(), ids=HOW)
def test_options_are_passed_on(run, model, words, fields, settings):
    (answer,) = as_json(run, "a warm film", "--model", model, *words)
    assert {name: answer[name] for name in fields} == fields
    assert {name: answer["settings"][name] for name in settings} == settings
    assert answer["settings"]["model"] == model


@pytest.mark.parametrize("command", ["explain", "heads"])
def test_help_shows_explain_and_not_its_former_spelling(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--explain {probability,logit}" in shown
    assert "--logit" not in shown


def test_pairs_of_texts(run, model):
    code, out, _ = run("How old?", "Who?", "--pair", "What age?", "--pair", "You!", "--model", model)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith('"')] == [
        '"How old?" | "What age?"',
        '"Who?" | "You!"',
    ]


FILES = {
    "sentences": ('sentence\tlabel\na film\t1\n"so" it\'s\t0\n', [("a film", None), ('"so" it\'s', None)]),
    "pairs": ("pair\tsentence\nWhy?\tHow?\n", [("How?", "Why?")]),
    "from a spreadsheet": ("\ufeffsentence\r\na film\r\n", [("a film", None)]),
    "with a blank line": ("sentence\na film\n\ndull\n", [("a film", None), ("dull", None)]),
}


@pytest.mark.parametrize(("content", "texts"), FILES.values(), ids=FILES)
def test_texts_from_a_file(run, model, content, texts):
    Path("texts.tsv").write_text(content, encoding="utf-8", newline="")
    answers = as_json(run, "--file", "texts.tsv", "--model", model)
    assert [(answer["text"], answer["text_pair"]) for answer in answers] == texts


def test_files_go_where_they_are_asked_to(run, model):
    run("dull", "--model", model, "--output", "new/folder")
    assert {path.name for path in Path("new/folder").iterdir()} == {"001-dull.png", "001-dull.safetensors"}
    assert not Path("explanations").exists()


# Answers in other words


def loaded(run, model, *words):
    run("a warm film", "--model", model, *words)
    return Explanation.load(next(Path("explanations").glob("*.safetensors")))


def test_too_few_steps_are_owned_up_to(run, model):
    _, out, _ = run("a warm film", "--model", model, "--method", "riemann_left", "--steps", "2")
    assert "(NOT reached, try more --steps)" in out
    assert re.search(r"layer 0 .* = .*  off by [+-]\de-\d\d\n", out)


def test_the_joint_path_has_one_line(run, model):
    _, out, _ = run("a warm film", "--model", model, "--path", "joint", "--explain", "logit", "--target", "glad")
    assert "without all attention + all attributions = logit of 'glad' (error " in out
    assert out.count("all layers  ") == 1
    assert "layer 0  " not in out


def test_columns_are_aligned(run, model):
    lines = describe(loaded(run, model, "--explain", "logit")).splitlines()
    rows = [line for line in lines if re.match(r"    layer \d  ", line)]
    assert len(rows) == 3
    assert len({(line.index(" = "), len(line)) for line in rows}) == 1


def test_a_regression_model_s_answer(run, tmp_path):
    model, tokenizer = bert(num_labels=1)
    model.save_pretrained(tmp_path / "one")
    tokenizer.save_pretrained(tmp_path / "one")
    code, out, err = run("a film", "--model", "one")
    assert (code, err) == (0, "")
    assert re.search(r"^  prediction  -?\d+\.\d{4} \(a regression model's output\)$", out, re.MULTILINE)
    assert "its attributions = output" in out
    assert "probability" not in out


# What goes wrong

BAD = {
    "no text": ([], "nothing to explain: give texts"),
    "empty text": ([""], "text 0 is empty"),
    "text and file": (["a film", "--file", "x.tsv"], "texts on the command line or --file, not both"),
    "pair and file": (["--pair", "a film", "--file", "x.tsv"], "texts on the command line or --file, not both"),
    "no file": (["--file", "none.tsv"], r"none.tsv cannot be read: .*No such file"),
    "file is a folder": (["--file", "."], r"\. cannot be read: .*directory"),
    "file without its column": (["--file", "other.tsv"], "other.tsv needs a header line with the column 'sentence'"),
    "file without rows": (["--file", "header.tsv"], "header.tsv needs a header line .* and at least one row"),
    "file with an empty text": (["--file", "gap.tsv"], "gap.tsv, line 3: the sentence is empty"),
    "file without a second text": (["--file", "pairs.tsv"], "pairs.tsv, line 2: the pair is empty"),
    "file in no encoding": (["--file", "latin.tsv"], "latin.tsv cannot be read: .*utf-8"),
    "fewer pairs": (["a", "b", "--pair", "c"], "Got 1 second texts for 2 texts"),
    "unknown label": (["a film", "--target", "angry"], r"'angry' is not a label of the model.*0 \(sad\), 1 \(so-so\)"),
    "label too large": (["a film", "--target", "3"], "target 3 is not a label of the model"),
    "no steps": (["a film", "--steps", "0"], "n_steps of at least 1, got 0"),
    "steps without end": (
        ["a film", "--steps", "100000000", "--method", "riemann_middle"],
        "riemann_middle takes n_steps of at most 1000000, got 100000000",
    ),
    "steps in words": (["a film", "--steps", "few"], "argument --steps: invalid int value: 'few'"),
    "one Riemann step": (["a film", "--steps", "1", "--method", "riemann_left"], "n_steps of at least 2, got 1"),
    "unknown rule": (["a film", "--method", "simpson"], "argument --method: invalid choice: 'simpson'"),
    "nothing to print": (["a film", "--top", "0"], "'0' is not a whole number of at least 1"),
    "no model": (["a film", "--model", "./none"], "There is no folder ./none to load a model from"),
    "output below a file": (["a film", "--output", "other.tsv/x"], "the output folder other.tsv/x cannot be written"),
    "output is a file": (["a film", "--output", "other.tsv"], "the output folder other.tsv cannot be written"),
    "unknown option": (["a film", "--colour"], "unrecognized arguments: --colour"),
}
WRITTEN = {
    "other.tsv": b"text\na film\n", "header.tsv": b"sentence\n", "gap.tsv": b"sentence\tx\na film\t\n\t1\n",
    "pairs.tsv": b"sentence\tpair\na film\n", "latin.tsv": b"sentence\ncaf\xe9\n",
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_exit_code_2_and_a_message_on_standard_error(run, model, words, message):
    for name, content in WRITTEN.items():
        Path(name).write_bytes(content)
    code, out, err = run(*([] if "--model" in words else ["--model", model]), *words)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert re.search(f"^captum-attattr( explain)?: error: .*{message}", last)
    assert "Traceback" not in err


def test_a_disk_that_is_full_is_no_traceback(run, model, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    code, out, err = run("a film", "--model", model)
    assert (code, out) == (2, "")
    where = "The picture cannot be written to explanations/001-a-film.png"
    assert err == f"captum-attattr: error: {where}: [Errno 28] No space left on device\n"
    assert [file.suffix for file in Path("explanations").iterdir()] == [".safetensors"]


def test_an_interrupt_is_exit_code_130(run, model, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Explainer, "explain_each", interrupted)
    assert run("a film", "--model", model) == (130, "", "captum-attattr: interrupted\n")


def test_an_interrupt_leaves_what_was_done(run, model, monkeypatch):
    each = Explainer.explain_each

    def interrupted_after_one(*words, **options):
        yield next(each(*words, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(Explainer, "explain_each", interrupted_after_one)
    code, _, _ = run("a long film", "dull", "--model", model)
    assert code == 130
    assert {path.name for path in Path("explanations").iterdir()} == {"002-dull.png", "002-dull.safetensors"}


def test_a_reader_that_goes_away_is_no_error(model, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["explain", "a film", "--model", model]) == 0
        print("the interpreter's last words go nowhere", flush=True)
    assert capsys.readouterr().err == ""
    assert len(list(Path("explanations").iterdir())) == 2


def test_a_text_that_is_cut_is_a_warning_on_standard_error(run, model):
    code, out, err = run("long " * 50, "--model", model, "--json")
    assert code == 0
    assert err == (
        "captum-attattr: warning: 1 of 1 texts were cut, as the model takes 32 tokens (text 0 has 52): the part cut "
        "off is not explained.\n"
    )
    assert len(json.loads(out)[0]["tokens"]) == 32


def test_progress_goes_to_standard_error_where_someone_looks(run, model, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, out, err = run("a film", "dull", "--model", model, "--json")
    assert code == 0
    assert "Explaining: 100%" in err
    assert len(json.loads(out)) == 2


# Help


@pytest.mark.parametrize("words", [["--help"], ["explain", "--help"]])
def test_help_shows_examples_and_exit_codes(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert '\n  captum-attattr explain "The plot was interesting but the execution was poor."\n' in out
    assert ("exit codes: 0 done, 2 " in out) == (words == ["--help"])


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"captum-attattr {version('captum-attattr')}\n"


def test_without_a_command_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "usage: captum-attattr" in capsys.readouterr().err
