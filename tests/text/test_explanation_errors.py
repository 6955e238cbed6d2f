"""Bad input to ``explain`` and damaged files: an error that says what to do, and the model untouched."""

from __future__ import annotations

import json
import re
import time

import pytest
import torch
import transformers as hf
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from snapshot import untouched
from tiny_classifiers import bert, demo, lively, sizes

from captum_attattr import Explanation, UnsupportedModelError, explain

__all__ = ["untouched"]

TEXT = "A warm, funny film."


@pytest.fixture(scope="module")
def tiny():
    return bert()


# Texts, targets, settings

BAD = {
    "empty text": (ValueError, r"^text is empty: there is nothing to explain", "", {}),
    "blank text": (ValueError, r"^text is empty", " \n\t", {}),
    "an empty text among others": (ValueError, r"^text 1 is empty", [TEXT, " "], {}),
    "no text": (ValueError, r"empty list: give at least one", [], {}),
    "nothing known": (ValueError, r"text 1 .* holds no token that the tokenizer knows", [TEXT, "\u200b"], {}),
    "broken text": (ValueError, r"text is not valid Unicode: was it read with the right encoding", "bad \udcff", {}),
    "no string": (TypeError, r"text must be a string or a list of strings, got int", 5, {}),
    "no string in the list": (TypeError, r"text 1 is a float, expected a string", [TEXT, 1.0], {}),
    "bytes": (TypeError, r"text must be a string or a list of strings, got bytes", b"film", {}),
    "fewer second texts": (ValueError, r"Got 1 second texts for 2 texts", [TEXT, TEXT], {"text_pair": [TEXT]}),
    "empty second text": (ValueError, r"text_pair is empty", TEXT, {"text_pair": ""}),
    "fewer targets": (ValueError, r"Got 1 targets for 2 texts: give one each", [TEXT] * 2, {"target": [0]}),
    "unknown label": (ValueError, r"'glad' is not a label .*0 \(LABEL_0\), 1 ", TEXT, {"target": "glad"}),
    "label too large": (ValueError, r"target 3 is not a label of the model", TEXT, {"target": 3}),
    "label below zero": (ValueError, r"target -1 is not a label of the model", TEXT, {"target": -1}),
    "label true": (ValueError, r"target True is not a label of the model", TEXT, {"target": True}),
    "label in the list": (ValueError, r"target 7 is not a label of the model", [TEXT] * 2, {"target": [0, 7]}),
    "label of a wrong kind": (TypeError, r"label's number or name, .*got float", TEXT, {"target": 0.5}),
    "unknown output": (ValueError, r"Unknown output 'score'. Choose 'log-odds', 'logit'", TEXT, {"output": "score"}),
    "layer too large": (ValueError, r"layers \[0, 3\] do not .* 0 to 2", TEXT, {"layers": [0, 3]}),
    "layer below zero": (ValueError, r"layers \[-1\] do not all exist", TEXT, {"layers": [-1]}),
    "no layer": (ValueError, r"must name at least one layer", TEXT, {"layers": []}),
    "layer twice": (ValueError, r"layers \[1, 1\] must name .* each of them once", TEXT, {"layers": [1, 1]}),
    "layer by name": (TypeError, r"layers must be a list of layer numbers, got 'all'", TEXT, {"layers": "all"}),
    "unknown path": (ValueError, r"Unknown path 'straight'", TEXT, {"path": "straight"}),
    "unknown rule": (ValueError, r"rule 'simpson'. Choose one of riemann_left", TEXT, {"method": "simpson"}),
    "no steps": (ValueError, r"needs n_steps of at least 1, got 0", TEXT, {"n_steps": 0}),
    "one Riemann step": (ValueError, r"at least 2, got 1", TEXT, {"n_steps": 1, "method": "riemann_left"}),
    "steps of a wrong kind": (TypeError, r"n_steps must be a whole number, got 2.5", TEXT, {"n_steps": 2.5}),
    "no batch": (ValueError, r"batch_size must be a whole number of at least 1, got 0", TEXT, {"batch_size": 0}),
    "batch of a wrong kind": (ValueError, r"batch_size .* got 1.5", TEXT, {"batch_size": 1.5}),
    "unknown baseline": (ValueError, r"'mean' is not known: 'uniform'", TEXT, {"attention_baseline": "mean"}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "text", "options"), BAD.values(), ids=BAD)
def test_a_bad_argument_is_refused_and_the_model_untouched(tiny, untouched, kind, message, text, options):
    model, tokenizer = tiny
    with untouched(model, lambda: run(model, tokenizer)), pytest.raises(kind, match=message):
        explain(text, model, tokenizer, **options)


def run(model, tokenizer):
    return model(**tokenizer(TEXT, return_tensors="pt"))


def test_a_bad_label_is_refused_before_anything_is_computed(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match="not a label"):
        explain([TEXT, "Long and longer."], model, tokenizer, target=[0, "glad"])


# Models and tokenizers


def headless():
    return hf.BertModel(hf.BertConfig(**sizes(demo()[1]))).eval()


def of_language():
    return hf.BertForMaskedLM(hf.BertConfig(**sizes(demo()[1]))).eval()


NO_CLASSIFIER = {
    "no tokenizer": (lambda: bert()[0], None, r"needs its tokenizer: explain\(text, model, tokenizer\)"),
    "a tokenizer's name": (lambda: bert()[0], "bert-base-uncased", r"must be a transformers tokenizer, got str"),
    "not a model": (lambda: 5, demo()[1], r"model must be a transformers model, a folder or a name, got int"),
    "a plain module": (lambda: torch.nn.Linear(2, 2), demo()[1], r"must be a transformers model.* got Linear"),
    "no head": (headless, demo()[1], r"BertModel does not give one logit a label .*use SelfAttentionAttribution"),
    "another head": (of_language, demo()[1], r"BertForMaskedLM does not give one logit a label for each text"),
}


@pytest.mark.parametrize(("build", "tokenizer", "message"), NO_CLASSIFIER.values(), ids=NO_CLASSIFIER)
def test_what_is_no_classifier_is_refused(build, tokenizer, message):
    with pytest.raises(TypeError, match=message):
        explain(TEXT, build(), tokenizer)


def test_another_model_s_tokenizer_is_refused(untouched):
    model, tokenizer = bert(vocab_size=50)
    ids = torch.tensor([[1, 2, 3]])
    with (
        untouched(model, lambda: model(ids)),
        pytest.raises(ValueError, match=r"model has only 50 tokens: is it the model's own"),
    ):
        explain(TEXT, model, tokenizer)


def test_a_family_whose_attention_cannot_be_followed_is_refused(untouched):
    tokenizer = demo()[1]
    model = lively(hf.YosoForSequenceClassification(hf.YosoConfig(**sizes(tokenizer, pad_token_id=0))))
    with (
        untouched(model, lambda: run(model, tokenizer)),
        pytest.raises(
            UnsupportedModelError, match=r"YosoForSequenceClassification has no attention layer.*YosoSelfAtt"
        ),
    ):
        explain(TEXT, model, tokenizer)


def test_a_model_in_training_mode_is_refused_and_stays_so(untouched):
    model, tokenizer = bert()
    model.train()
    with (
        untouched(model, lambda: run(model, tokenizer)),
        pytest.raises(ValueError, match=r"training mode and drops out at random.*Call model.eval\(\) first"),
    ):
        explain(TEXT, model, tokenizer)
    assert model.training


def test_outputs_that_are_no_numbers_are_refused(untouched):
    model, tokenizer = bert()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with untouched(model, lambda: run(model, tokenizer)), pytest.raises(ValueError, match="NaN or infinite"):
        explain(TEXT, model, tokenizer)


# Models by name


@pytest.fixture
def offline(monkeypatch):
    """As with HF_HUB_OFFLINE=1, which is read when the library is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_name_that_cannot_be_one_says_what_to_check():
    with pytest.raises(
        ValueError, match=r"There is no model 'a/b/c/d' in a folder .* Is the name right .*'owner/name'"
    ):
        explain(TEXT, "a/b/c/d")


class _Answer:
    """What the Hub answers, or does not."""

    def __init__(self, error):
        self.error = error

    def model_info(self, name, timeout):
        assert timeout < 3
        raise self.error


class _NotThereError(RepositoryNotFoundError):
    def __init__(self):
        Exception.__init__(self, "404")


ANSWERS = {
    "not there": (_NotThereError(), "There is no model 'typo'"),
    "no network": (ConnectionError("no route"), r"the Hugging Face Hub could not be asked for it \(ConnectionError\)"),
    "too slow": (TimeoutError("slow"), r"the Hugging Face Hub could not be asked for it \(TimeoutError\)"),
}


@pytest.mark.parametrize(("error", "message"), ANSWERS.values(), ids=ANSWERS)
def test_a_name_that_the_hub_does_not_know_fails_at_once(monkeypatch, error, message):
    monkeypatch.setattr("captum_attattr.text.model_loading.HfApi", lambda: _Answer(error))
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"{message}.*Is the name right .* Is there a folder 'typo' here\?"):
        explain(TEXT, "typo")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("name", ["no-such-model-anywhere", "no-such-owner/no-such-model"])
def test_a_model_name_that_does_not_exist(offline, name):
    with pytest.raises(
        ValueError, match=f"No classification model could be loaded as '{name}' from a folder or the Hug"
    ):
        explain(TEXT, name)


@pytest.mark.parametrize("name", ["./no-such-folder", "~/no-such-folder", "/no/such/folder", "../no-such-folder"])
def test_a_folder_that_does_not_exist(name):
    with pytest.raises(ValueError, match=f"^There is no folder {re.escape(name)} to load a model from"):
        explain(TEXT, name)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_model_name(name):
    with pytest.raises(ValueError, match="The model's name is empty: give a folder or a name"):
        explain(TEXT, name)


def save(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def test_a_checkpoint_without_a_classification_head(tmp_path, capsys):
    save(tmp_path, headless(), demo()[1])
    capsys.readouterr()
    with pytest.raises(
        ValueError, match=r"no trained classification head \(classifier.bias, classifier.weight missing"
    ):
        explain(TEXT, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_checkpoint_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer: save it there, too"):
        explain(TEXT, save(tmp_path, bert()[0]))


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


FOLDERS = {
    "empty": (empty, "config.json"),
    "weights damaged": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 1000), "header too large"),
    "weights missing": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "settings damaged": (lambda folder: (folder / "config.json").write_text("{no"), "is not a valid JSON file"),
    "not for text": (lambda folder: save(folder, hf.ViTModel(VIT)), "ViTConfig"),
}
VIT = hf.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)


@pytest.mark.parametrize(("harm", "reason"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_holds_no_sound_classifier(tmp_path, harm, reason):
    harm(save(tmp_path, *bert()))
    with pytest.raises(ValueError, match=f"No classification model could be loaded as .* from this folder: .*{reason}"):
        explain(TEXT, tmp_path)


def test_a_file_in_place_of_a_folder(tmp_path):
    save(tmp_path, *bert())
    with pytest.raises(ValueError, match=r"model.safetensors is a file: give the folder"):
        explain(TEXT, tmp_path / "model.safetensors")


def test_loading_leaves_the_library_s_messages_as_they_were(tmp_path):
    logging = hf.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    explain(TEXT, save(tmp_path, *bert()), n_steps=1, tolerance=None)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    (tmp_path / "config.json").write_text("{no")
    with pytest.raises(ValueError, match="not a valid JSON file"):
        explain(TEXT, tmp_path)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# Saved explanations


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny):
    return explain(TEXT, *tiny).save(tmp_path_factory.mktemp("saved") / "one.safetensors")


def change(change_words=None, drop=()):
    """A saved explanation again, with other words or without some tensors."""

    def rewrite(path, data):
        length = int.from_bytes(data[:8], "little")
        words = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["captum_attattr"])
        words = change_words(words) if change_words else words
        tensors = {name: tensor for name, tensor in load_file(path).items() if name not in drop}
        save_file(tensors, path, metadata={"captum_attattr": words if isinstance(words, str) else json.dumps(words)})

    return rewrite


def overwrite(make):
    return lambda path, data: path.write_bytes(make(data))


DAMAGED = "cannot be read as a saved explanation, it may be damaged"
DAMAGE = {
    "empty": (overwrite(lambda data: b""), DAMAGED),
    "cut in the header": (overwrite(lambda data: data[:100]), DAMAGED),
    "cut in the numbers": (overwrite(lambda data: data[:-1]), DAMAGED),
    "random bytes": (overwrite(lambda data: bytes(range(256)) * 40), DAMAGED),
    "a text file": (overwrite(lambda data: b"a warm, funny film\n" * 40), DAMAGED),
    "a tensor missing": (change(drop=["attention"]), DAMAGED),
    "a field missing": (change(lambda words: {k: v for k, v in words.items() if k != "tokens"}), DAMAGED),
    "a field too many": (change(lambda words: {**words, "colour": "red"}), DAMAGED),
    "no version": (change(lambda words: {k: v for k, v in words.items() if k != "version"}), DAMAGED),
    "a version that is no number": (change(lambda words: {**words, "version": "new"}), DAMAGED),
    "no JSON": (change(lambda words: "{no"), DAMAGED),
    "a list": (change(lambda words: "[1]"), DAMAGED),
    "a word": (change(lambda words: '"word"'), DAMAGED),
    "newer": (
        change(lambda words: {**words, "version": 3}), "has format version 3, this package reads up to 2: upgrade",
    ),
    "other safetensors": (
        lambda path, data: save_file({"weight": torch.ones(2)}, path), "is not a saved explanation",
    ),
    "other safetensors with metadata": (
        lambda path, data: save_file({"weight": torch.ones(2)}, path, metadata={"format": "pt"}),
        "is not a saved explanation",
    ),
    "missing": (lambda path, data: path.unlink(), "There is no file"),
    "a folder": (lambda path, data: (path.unlink(), path.mkdir()), "There is no file"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_holds_no_explanation_is_refused(saved, tmp_path, harm, message):
    path = tmp_path / "one.safetensors"
    path.write_bytes(saved.read_bytes())
    assert Explanation.load(path).text == TEXT
    harm(path, saved.read_bytes())
    with pytest.raises(ValueError, match=f"one.safetensors.*{message}|{message}.*one.safetensors"):
        Explanation.load(path)


@pytest.mark.parametrize("below", ["file/one", "file/folder/one", "folder"])
def test_a_place_that_cannot_be_written_is_refused(saved, tmp_path, below):
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=rf"The explanation cannot be written to .*{below}: "):
        Explanation.load(saved).save(tmp_path / below)
    assert (tmp_path / "file").read_text() == "a regular file"
