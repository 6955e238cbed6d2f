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
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from tiny_classifiers import bert

from captum_attattr import Explanation
from captum_attattr.cli import main
from captum_attattr.cli.answers import describe
from captum_attattr.text.explaining import Explainer
from captum_attattr.text.overview import Overview, number, signed

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
    monkeypatch.setattr(
        "captum_attattr.cli.explain.visualize_explanation", lambda *_, **__: (Figure(figsize=(1, 1)), [])
    )

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
    """The first line is an answer; then come what is read and what acts together, with their part of the total."""
    code, out, err, _ = main_job
    assert (code, err) == (0, "")
    first, text, total, *_ = out.splitlines()
    assert re.fullmatch(
        r"negative 0\.9\d\d: \[CLS\] reads 'poor' \+\d\.\d\d, and 'execution' looking at 'poor' \+\d\.\d\d", first
    )
    assert text == f'  "{TEXT}"'
    number = r"[+-]?\d+\.\d+"
    found = re.fullmatch(
        rf"  log-odds ({number}) = ({number}) without attention \+ ({number}) from attention \(\d+ evaluations\)", total
    )
    output, without, added = map(float, found.groups())
    assert output == pytest.approx(without + added, abs=0.02)
    assert re.search(r"^ {4,}\+\d\.\d\d +\d+%  poor$", out, re.MULTILINE)
    assert re.search(r"^ {4,}\+0\.\d{3} +\d+%  execution -> poor$", out, re.MULTILINE)
    assert re.search(r"^ {4,}\+0\.\d+ +\d+%  layer 5, head \d+$", out, re.MULTILINE)


def test_parts_add_up(main_job):
    """What [CLS] reads, word by word, is in all what the heading says."""
    *_, folder = main_job
    explanation = Explanation.load(next((folder / "explanations").glob("*.safetensors")))
    lines = describe(explanation, 100).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  [CLS] reads ("))
    total = float(re.search(r"\(([+-][\d.]+) in all\)", lines[start])[1])
    rows = [float(line.split()[0]) for line in lines[start + 1 : lines.index("", start)]]
    assert sum(rows) == pytest.approx(total, abs=0.02)


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
    assert done.stdout.startswith("negative 0.9")
    assert len(list(Path("explanations").iterdir())) == 2


def test_strongest_words_and_heads_with_their_signs(run, model):
    _, out, _ = run("A film, a warm film!", "--model", model, "--top", "5")
    explanation = Explanation.load(next(Path("explanations").glob("*.safetensors")))
    view = Overview(explanation.words)
    names, added = view.explanation.token_names, view.added
    pairs = [(p.score, f"{names[p.query]} -> {names[p.key]}") for p in view.strongest_between(5)]
    heads = [(h.score, f"layer {h.layer}, head {h.head}") for h in explanation.top_heads(5)]
    reads = [(score, names[place]) for place, score in view.strongest_reads(5)]
    rows = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith("    ")]
    assert rows == [[signed(score), f"{score / added:.0%}", name] for score, name in (*reads, *pairs, *heads)]


def test_special_tokens_are_left_out_on_request(run, model):
    _, out, _ = run("a film", "--model", model)
    assert re.search(r"%  \[(CLS|SEP)\]$", out, re.MULTILINE)
    _, out, _ = run("a film", "--model", model, "--no-special")
    assert not re.search(r"%  \[(CLS|SEP)\]$", out, re.MULTILINE)
    assert "film -> a" in out


def test_words_or_pieces(run, model):
    _, out, _ = run("unputdownable", "--model", model)
    assert "unputdownable\n" in out
    assert "##put" not in out
    _, out, _ = run("unputdownable", "--model", model, "--pieces")
    assert "##put" in out


def test_several_texts_are_answered_when_they_are_done_each_with_its_number(run, model):
    texts = ["so long as it is not too long", "dull", "a warm film"]
    _, out, _ = run(*texts, "--model", model)
    starts = [line for line in out.splitlines() if line.startswith("[")]
    found = {int(line[1]): out.splitlines()[out.splitlines().index(line) + 1].strip(' "') for line in starts}
    assert found == dict(enumerate(texts, 1))
    assert all(line[2:7] == " of 3" for line in starts)
    assert [path.stem for path in sorted(Path("explanations").glob("*.png"))] == [
        "001-so-long-as-it-is-not", "002-dull", "003-a-warm-film",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["\u96fb\u5f71!", "../../x", "a/b", "-- $HOME *", "x" * 300, "CON: \n nul"])
def test_file_names_are_safe_whatever_the_text(run, model, text):
    code, _, _ = run("--model", model, "--output", "here", "--", text)
    assert code == 0
    names = [path.name for path in Path("here").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"001-[a-z0-9-]{1,60}\.(png|safetensors)", name) for name in names)


def test_a_long_text_is_named_in_short(run, model):
    _, out, _ = run("long " * 15 + "\n" + "longer " * 50, "--model", model)
    text = out.splitlines()[1].strip()
    assert text.startswith('"long long ')
    assert text.endswith('..."')
    assert len(text) == 202


def test_characters_that_the_terminal_lacks_are_escaped(model, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["explain", "caf\u00e9 \u96fb", "--model", model]) == 0
    assert b'\n  "caf\\xe9 \\u96fb"\n' in written.getvalue()


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
    "logit": (["--output-kind", "logit"], {}, {"output": "logit"}),
    "probability": (["--output-kind", "probability"], {}, {"output": "probability"}),
    "log-probability": (["--output-kind", "log-probability"], {}, {"output": "log-probability"}),
    "logit, as it was spelled before": (["--explain", "logit"], {}, {"output": "logit"}),
    "logit, as it was spelled at first": (["--logit"], {}, {"output": "logit"}),
    "layerwise path": (["--path", "layerwise"], {}, {"path": "layerwise"}),
    "uniform attention": (["--baseline", "uniform"], {}, {"baseline": "uniform"}),
    "a number": (["--baseline", "0.125"], {}, {"baseline": "0.125"}),
    "rule": (["--method", "riemann_middle"], {}, {"method": "riemann_middle"}),
    "steps": (["--steps", "3"], {}, {"n_steps": 3}),
    "nothing": ([], {}, {"output": "log-odds", "path": "joint", "method": "gausslegendre", "n_steps": 1000}),
}


@pytest.mark.parametrize(("words", "fields", "settings"), HOW.values(), ids=HOW)
def test_options_are_passed_on(run, model, words, fields, settings):
    (answer,) = as_json(run, "a warm film", "--model", model, *words)
    assert {name: answer[name] for name in fields} == fields
    assert {name: answer["settings"][name] for name in settings} == settings
    assert answer["settings"]["model"] == model


@pytest.mark.parametrize("command", ["explain", "heads"])
def test_help_shows_no_former_spelling(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--output-kind {log-odds,logit,probability,log-probability}" in shown
    assert "--logit" not in shown
    assert "--explain" not in shown


@pytest.mark.parametrize(
    ("words", "layers"), [(["--layers"], [0, 1, 2]), (["--layers", "2,0"], [0, 2]), (["--layers=all"], [0, 1, 2])]
)
def test_layers_are_explained_beside_on_request(run, model, words, layers):
    explanation = loaded(run, model, *words)
    assert explanation.settings["path"] == "joint"
    assert explanation.layerwise.settings["path"] == "layerwise"
    assert explanation.layerwise.layers == layers
    _, out, _ = run("a warm film", "--model", model, *words)
    rows = [line.split()[1:3] for line in out.splitlines() if re.match(r" {4,}\S+  layer \d  ", line)]
    assert [int(number) for _, number in rows] == layers[::-1]


def test_pairs_of_texts(run, model):
    code, out, _ = run("How old?", "Who?", "--pair", "What age?", "--pair", "You!", "--model", model)
    assert code == 0
    assert {line for line in out.splitlines() if line.startswith('  "')} == {
        '  "How old?" | "What age?"',
        '  "Who?" | "You!"',
    }


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
    assert re.search(r"^  NOT converged, try more --steps: .* all layers [+-]\de[+-]\d\d$", out, re.MULTILINE)
    _, out, _ = run("a warm film", "--model", model, "--method", "riemann_left", "--steps", "2", "--layers")
    assert re.search(r"^  NOT converged, .* layer 0 [+-]\de[+-]\d\d, layer 1 ", out, re.MULTILINE)


def test_another_label_and_another_output(run, model):
    _, out, _ = run("a warm film", "--model", model, "--output-kind", "logit", "--target", "glad")
    explanation = Explanation.load(next(Path("explanations").glob("*.safetensors")))
    named = "logit" if explanation.prediction == "glad" else "logit of 'glad'"
    assert f"\n  {named} {number(explanation.output)} = " in out


def test_layerwise_sums_are_called_a_ranking(run, model):
    _, out, err = run("a warm film", "--model", model, "--path", "layerwise")
    assert "sums over layers are a ranking, not shares" in out
    assert err == ""
    assert not re.search(r"%  (a|warm|film)$", out, re.MULTILINE)


def test_a_regression_model_s_answer(run, tmp_path):
    model, tokenizer = bert(num_labels=1)
    model.save_pretrained(tmp_path / "one")
    tokenizer.save_pretrained(tmp_path / "one")
    code, out, err = run("a film", "--model", "one")
    assert (code, err) == (0, "")
    assert re.match(r"output -?\d+\.\d{3}: \[CLS\] reads ", out)
    assert "\n  output " in out
    assert "probability" not in out
    assert "log-odds" not in out


# Files and interrupts


def test_standard_input_and_a_column(run, model, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a warm film\n")))
    assert as_json(run, "--file", "-", "--model", model)[0]["text"] == "a warm film"
    Path("x.csv").write_text('review,stars\n"a warm, long film",5\n')
    assert as_json(run, "--file", "x.csv", "--column", "review", "--model", model)[0]["text"] == "a warm, long film"


def interrupted_after(count, monkeypatch):
    each = Explainer.explain_each

    def some(*words, **options):
        texts = each(*words, **options)
        for _ in range(count):
            yield next(texts)
        raise KeyboardInterrupt

    monkeypatch.setattr(Explainer, "explain_each", some)


@pytest.fixture
def explained(monkeypatch):
    """The texts that are explained from now on."""
    found, each = [], Explainer.explain_each

    def noting(self, request, *words, **options):
        found.extend(request.texts)
        return each(self, request, *words, **options)

    monkeypatch.setattr(Explainer, "explain_each", noting)
    return found


def test_an_interrupted_run_goes_on_where_it_was(run, model, monkeypatch, explained):
    texts = ["a long film", "dull", "so long"]
    Path("texts.txt").write_text("\n".join(texts))
    words = ("--file", "texts.txt", "--model", model, "--html")
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        code, out, err = run(*words)
    assert code == 130
    assert "2 of 3 texts are done, in explanations: the same command goes on." in err
    assert Path("explanations/explanations.html").is_file()
    explained.clear()
    code, out, _ = run(*words)
    assert code == 0
    assert explained == ["a long film"]
    assert all(f'"{text}"' in out for text in texts)
    assert not Path("explanations/explain.state.json").exists()
    run(*words)
    assert explained == ["a long film", *texts]


@pytest.mark.parametrize(
    "change", [["--output-kind", "logit"], ["--layers"], ["--target", "sad"], ["--baseline", "0.1"]]
)
def test_another_run_does_not_go_on(run, model, monkeypatch, explained, change):
    with monkeypatch.context() as patch:
        interrupted_after(1, patch)
        run("a long film", "dull", "--model", model)
    explained.clear()
    run("a long film", "dull", "--model", model, *change)
    assert explained == ["a long film", "dull"]


def test_a_damaged_state_is_an_error_that_says_what_to_do(run, model):
    Path("explanations").mkdir()
    Path("explanations/explain.state.json").write_text("{}")
    code, _, err = run("a long film", "dull", "--model", model)
    assert code == 2
    assert re.search(r"explain\.state\.json is damaged: .* Delete it to start anew", err)


# What goes wrong

BAD = {
    "no text": ([], "nothing to explain: give texts"),
    "empty text": ([""], "text 0 is empty"),
    "text and file": (["a film", "--file", "x.tsv"], "texts on the command line or --file, not both"),
    "pair and file": (["--pair", "a film", "--file", "x.tsv"], "texts on the command line or --file, not both"),
    "no file": (["--file", "none.tsv"], r"none.tsv cannot be read: .*No such file"),
    "file is a folder": (["--file", "."], r"\. cannot be read: .*directory"),
    "file without its column": (
        ["--file", "other.tsv"],
        "other.tsv has no column 'sentence' or 'text' .* its columns are 'review'",
    ),
    "column without a file": (["a film", "--column", "review"], "--column is for --file"),
    "file without rows": (["--file", "header.tsv"], "header.tsv holds no texts"),
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
    "layers before the text": (["--layers", "a film"], "'a film' is neither 'all' nor numbers of layers such as 0,5"),
    "unknown layer": (["a film", "--layers", "7"], r"layers \[7\] do not all exist: the model has layers 0 to 2"),
    "unknown start": (["a film", "--baseline", "even"], "'even' is neither a number nor 'uniform'"),
    "unknown output": (["a film", "--output-kind", "odds"], "argument --output-kind: invalid choice: 'odds'"),
    "unknown option": (["a film", "--colour"], "unrecognized arguments: --colour"),
}
WRITTEN = {
    "other.tsv": b"review\na film\n", "header.tsv": b"sentence\n", "gap.tsv": b"sentence\tx\na film\t\n\t1\n",
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
    names = {"002-dull.png", "002-dull.safetensors", "explain.state.json"}
    assert {path.name for path in Path("explanations").iterdir()} == names


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
