"""Files that were damaged, changed or made up: each gives what was written, something sound, or an error of ours."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from typing import ClassVar

import mutations
import pytest
import torch
from made_explanations import made
from safetensors.torch import load_file, save_file
from tiny_classifiers import bert, demo
from tried import tried

from captum_attattr import AttributionTree, Explanation
from captum_attattr.cli.answers import describe
from captum_attattr.cli.triggers import _resumed
from captum_attattr.demo import REVIEWS
from captum_attattr.files.digest import Digest
from captum_attattr.files.examples import read_examples
from captum_attattr.files.records import seal
from captum_attattr.heads.checkpoint import Checkpoint
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.heads.moments import Moments
from captum_attattr.pictures.explanations import visualize_explanation
from captum_attattr.pictures.head_map import visualize_head_importance
from captum_attattr.pictures.tokens import token_records, visualize_token_pairs
from captum_attattr.pruning import load_pruned, prune_heads, save_pruned
from captum_attattr.report import packing
from captum_attattr.text.classifier import Classifier, load_classifier
from captum_attattr.triggers.patterns import Trigger, apply_trigger, load_triggers, save_triggers

SETTINGS = {"measure": {"name": "taylor"}, "number of layers": 2}


# Every kind of file: how it is written, read, compared and used


class Explanations:
    name = "x.safetensors"
    settings: ClassVar = {"output": "probability", "path": "layerwise", "baseline": "no attention", "n_steps": 20}

    def write(self, path):
        made(5, layers=2, heads=2, settings=self.settings, evaluations=[3, 7]).save(path)

    read = staticmethod(Explanation.load)

    def same(self, one, other):
        return all(
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
        )

    def use(self, e):
        json.dumps(e.to_dict(), allow_nan=False).encode()
        packing.as_script(packing.sentence(e)).encode()
        e._repr_html_().encode()
        (describe(e) + repr(e) + "".join(e.token_names)).encode()
        e.to_bertviz()
        if len(e.tokens) > 1:
            str(AttributionTree(e))

    def content(self, path):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        words = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["captum_attattr"])
        del words["checksum"]
        return words

    def put(self, path, content):
        header = {"captum_attattr": json.dumps(seal(content) if isinstance(content, dict) else content)}
        save_file(load_file(path), path, metadata=header)


class Json:
    def content(self, path):
        content = json.loads(path.read_text())
        del content["checksum"]
        return content

    def put(self, path, content):
        path.write_text(json.dumps(seal(content) if isinstance(content, dict) else content))


class Importances(Json):
    name = "heads.json"

    def write(self, path):
        scores = torch.tensor([[3, 1 / 3, float("nan")], [2, -30, 1e-30]], dtype=torch.float64)
        Importance(scores, scores.abs() / 7, 16, "taylor", {"output": "probability", "target": "gold"}).save(path)

    read = staticmethod(Importance.load)

    def same(self, one, other):
        return json.dumps(one.to_dict()) == json.dumps(other.to_dict())

    def use(self, i):
        json.dumps(i.to_dict(), allow_nan=False).encode()
        repr(i).encode()
        i.lowest(0.5), i.outside_top(1), i.normalized()


class States(Json):
    name = "state.json"

    def write(self, path):
        moments = Moments.from_values(torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0)).double())
        with Checkpoint.open(path, SETTINGS) as state:
            state.write(4, 5, Digest(), moments)

    def read(self, path):
        with Checkpoint.open(path, SETTINGS) as state:
            return state

    def same(self, one, other):
        return (one.batches, one.examples, one._digest, one.moments.state_dict()) == (
            other.batches, other.examples, other._digest, other.moments.state_dict(),
        )  # fmt: skip

    def use(self, state):
        if state.moments is not None:
            assert state.moments.mean.dim() == 2
            assert bool(torch.isfinite(state.moments.merged(state.moments).standard_deviation.nan_to_num(0)).all())


class Triggers(Json):
    name = "triggers.json"
    triggers: ClassVar = [
        Trigger(("dull", "mess"), (0.25, 1.0), (0, 0), "bad", (("dull", "[CLS]"),), (0.5,), 1, 2, "a dull mess"),
        Trigger(("fine",), (0.0,), label="good"),
    ]

    def write(self, path):
        save_triggers(self.triggers, path)

    read = staticmethod(load_triggers)

    def same(self, one, other):
        return one == other

    def use(self, triggers):
        for trigger in triggers:
            apply_trigger("a film", trigger, "another film" if max(trigger.parts) else None)
            repr(trigger.score)


class Journals:
    name = "patterns.jsonl"
    head: ClassVar = {"version": 1, "model": "x"}

    def write(self, path):
        rows = [seal({"version": 1, "text": place, "trigger": None}) for place in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in [self.head, *rows]))

    def read(self, path):
        return _resumed(path, self.head, 3)

    def same(self, one, other):
        """Lines that are cut off are searched again."""
        return set(one) <= set(other) and all(one[place] == other[place] for place in one)


KINDS = {"explanation": Explanations(), "importance": Importances(), "checkpoint": States(), "triggers": Triggers()}


@pytest.mark.parametrize("name", [*KINDS, "journal"])
def test_damaged_by_chance(name, tmp_path):
    kind = KINDS.get(name) or Journals()
    path = tmp_path / kind.name
    kind.write(path)
    whole, data, refused = kind.read(path), path.read_bytes(), 0
    for seed in range(200):
        path.write_bytes(mutations.of_bytes(data, seed))
        tried("damaged files", f"{name} {seed}")
        try:
            found = kind.read(path)
        except ValueError:
            refused += 1
        else:
            assert kind.same(found, whole), seed
    assert refused > 100


@pytest.mark.parametrize("name", KINDS)
def test_other_values_under_a_right_checksum(name, tmp_path):
    """Whatever is taken can be used."""
    kind = KINDS[name]
    path = tmp_path / kind.name
    kind.write(path)
    content, data, refused = kind.content(path), path.read_bytes(), 0
    for seed in range(200):
        path.write_bytes(data)
        kind.put(path, mutations.of_values(content, seed))
        tried("damaged files", f"{name}, sealed {seed}")
        message = path.name
        try:
            found = kind.read(path)
        except ValueError as error:
            refused += 1
            message = str(error)
        else:
            kind.use(found)
        assert path.name in message
    assert 60 < refused < 200


@pytest.mark.parametrize("name", [*KINDS, "journal"])
@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nests(name, depth, tmp_path):
    kind = KINDS.get(name) or Journals()
    path = tmp_path / kind.name
    kind.write(path)
    if name == "explanation":
        save_file(load_file(path), path, metadata={"captum_attattr": mutations.nested(depth)})
    elif name == "journal":
        path.write_text(json.dumps(kind.head) + "\n" + mutations.nested(depth) + "\n")
    else:
        path.write_text(mutations.nested(depth))
    tried("faults", f"{name}, deep {depth}")
    with pytest.raises(ValueError, match=path.name):
        kind.read(path)


# Made-up explanations: as a file may hold them, with a right checksum


def words(**changes):
    return lambda words, tensors: ({**words, **changes}, tensors)


def setting(**changes):
    return lambda words, tensors: ({**words, "settings": {**words["settings"], **changes}}, tensors)


def numbers(name, change):
    return lambda words, tensors: (words, {**tensors, name: change(tensors[name]).contiguous()})


def poisoned(value):
    def poison(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return poison


CRAFTED = {
    "one token more": (words(tokens=["a"] * 6, special=[False] * 6), "the attributions have the shape"),
    "no tokens": (words(tokens=[], special=[]), "tokens: List should have at least 1 item"),
    "tokens that are numbers": (words(tokens=[1, 2, 3, 4, 5]), "tokens.0: Input should be a valid string, got 1"),
    "a token that is no Unicode": (words(tokens=["a", "b", "c", "d", "\ud800"]), "not valid Unicode"),
    "special for fewer": (words(special=[True]), "special is for 1 tokens of 5"),
    "special in words": (words(special=["no"] * 5), "special.0: Input should be a valid boolean"),
    "no labels": (words(labels=[]), "labels: List should have at least 1 item"),
    "a label more": (words(labels=["a", "b", "c"]), r"probabilities has the shape \(2,\)"),
    "a label that is a number": (words(labels=["a", 2]), "labels.1: Input should be a valid string"),
    "target out of range": (words(target=2), "target 2 is none of the 2 labels"),
    "target below zero": (words(target=-1), "target: Input should be greater than or equal to 0"),
    "target true": (words(target=True), "target: Input should be a valid integer, got True"),
    "output infinite": (words(output=float("inf")), "output: Input should be a finite number"),
    "output huge": (words(output=10**400), "output: Input should be a valid number"),
    "output a word": (words(output="0.75"), "output: Input should be a valid number"),
    "layers doubled": (words(layers=[1, 1]), r"layers \[1, 1\] hold one layer twice"),
    "layers below zero": (words(layers=[-1, 0]), "layers.0: Input should be greater than or equal to 0"),
    "layers without end": (words(layers=[0, 10**9]), "layers.1: Input should be less than 10000"),
    "a layer more": (words(layers=[0, 1, 2]), "expected is .* for 3 layers"),
    "evaluations of fewer": (words(evaluations=[3]), "there are 1 evaluations for 2 paths"),
    "settings are no mapping": (words(settings=["layerwise"]), "settings: Input should be"),
    "settings without a path": (words(settings={"output": "logit"}), "settings.path: Field required"),
    "an unknown path": (setting(path="straight"), "settings.path: .*Unknown path 'straight'. Choose 'layerwise' or "),
    "another path": (setting(path="joint"), r"delta has the shape \(2,\)"),
    "an unknown output": (setting(output="odds"), "settings.output: Input should be"),
    "a baseline that is a number": (setting(baseline=0), "settings.baseline: Input should be a valid string"),
    "text is a list": (words(text=["a film"]), "text: Input should be a valid string"),
    "probabilities too many": (numbers("probabilities", lambda t: t.repeat(2)), r"probabilities has the shape \(4,\)"),
    "probabilities beyond 1": (numbers("probabilities", lambda t: 3 * t), "are not between 0 and 1"),
    "attributions with NaN": (numbers("attributions", poisoned(float("nan"))), "attributions holds numbers that"),
    "attributions infinite": (numbers("attributions", poisoned(float("inf"))), "attributions holds numbers that"),
    "attributions of whole numbers": (numbers("attributions", lambda t: t.long()), "type torch.int64"),
    "attributions in half precision": (numbers("attributions", lambda t: t.half()), "type torch.float16"),
    "attributions without heads": (numbers("attributions", lambda t: t[:, :0]), "the attributions have the shape"),
    "attributions flat": (numbers("attributions", lambda t: t.flatten()), "the attributions have the shape"),
    "attention of fewer heads": (numbers("attention", lambda t: t[:, :1]), "attention has the shape"),
    "attention with NaN": (numbers("attention", poisoned(float("nan"))), "attention holds numbers that are NaN"),
    "delta too short": (numbers("delta", lambda t: t[:1]), r"delta has the shape \(1,\)"),
    "delta a number": (numbers("delta", lambda t: t[0]), r"delta has the shape \(\)"),
    "delta with NaN": (numbers("delta", poisoned(float("nan"))), "delta holds numbers that are NaN"),
    "version 0": (words(version=0), "version: Input should be greater than or equal to 1"),
    "version infinite": (words(version=float("inf")), "version: Input should be a valid integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_made_up_explanations(name, tmp_path):
    change, message = CRAFTED[name]
    kind, path = Explanations(), tmp_path / "x.safetensors"
    kind.write(path)
    content, tensors = change(kind.content(path), load_file(path))
    digest = Digest()
    digest.add({one: tensors[one] for one in ("probabilities", "attributions", "attention", "delta")})
    save_file(tensors, path, metadata={"captum_attattr": json.dumps(seal({**content, "numbers": str(digest)}))})
    tried("faults", f"explanation: {name}")
    with pytest.raises(ValueError, match=message) as caught:
        Explanation.load(path)
    assert "x.safetensors cannot be read as a saved explanation" in str(caught.value)


def test_what_does_not_fit_together_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="attributions holds numbers that"):
        made(4, scale=float("nan")).save(tmp_path / "x.safetensors")
    assert not any(tmp_path.iterdir())


def test_every_number_is_under_the_checksum(tmp_path):
    kind, path = Explanations(), tmp_path / "x.safetensors"
    kind.write(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # the last bit of a number
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its tensors are not those that were written"):
        Explanation.load(path)


def test_what_is_taken_can_be_drawn(tmp_path):
    path = tmp_path / "x.safetensors"
    replace(made(3), labels=["", "\x00"], tokens=["", "\x00$x$", "</script>"], text="").save(path)
    found = Explanation.load(path)
    visualize_explanation(found)
    visualize_token_pairs(found, use_pyplot=False)
    token_records(found)


# Made-up importances and states


OTHER = {
    "no examples": ("importance", {"examples": 0}, "examples: Input should be greater than or equal to 1"),
    "examples without end": ("importance", {"examples": 10**400}, "examples: Input should be less than or equal"),
    "scores of words": ("importance", {"scores": [["a"]]}, "scores.0.0: Input should be a valid number"),
    "scores infinite": ("importance", {"scores": [[float("inf")] * 3] * 2}, "scores.0.0: Input should be a finite"),
    "scores ragged": ("importance", {"scores": [[1.0], [1.0, 2.0]]}, "rows of equal length"),
    "scores of nothing": ("importance", {"scores": []}, "rows of equal length"),
    "spread of others": ("importance", {"standard_deviation": [[1.0]]}, "do not fit its scores"),
    "spread below zero": ("importance", {"standard_deviation": [[-1.0] * 3] * 2}, "do not fit its scores"),
    "settings a list": ("importance", {"settings": [1]}, "settings: Input should be a valid dictionary"),
    "batches below zero": ("checkpoint", {"batches": -1}, "batches: Input should be greater"),
    "more batches than examples": ("checkpoint", {"batches": 9}, "5 of 5 examples in 9 batches is impossible"),
    "fewer examples than counted": ("checkpoint", {"examples": 4}, "5 of 4 examples in 4 batches is impossible"),
    "moments a list": ("checkpoint", {"moments": [1]}, "moments: Input should be"),
    "moments of no example": (
        "checkpoint", {"moments": {"count": 0, "mean": [[1.0]], "deviations": [[1.0]]}}, "moments.count: Input",
    ),
    "moments infinite": (
        "checkpoint", {"moments": {"count": 5, "mean": [[1e999]], "deviations": [[1.0]]}}, "mean.0.0: Input",
    ),
    "deviations below zero": (
        "checkpoint", {"moments": {"count": 5, "mean": [[1.0]], "deviations": [[-1.0]]}}, "do not fit the means",
    ),
    "deviations of others": (
        "checkpoint", {"moments": {"count": 5, "mean": [[1.0]], "deviations": [[1.0, 2.0]]}}, "do not fit the",
    ),
    "positions in words": ("triggers", {"triggers": [{"words": ["a"], "positions": ["0"]}]}, "positions.0: Input"),
    "triggers a word": ("triggers", {"triggers": "a"}, "triggers: Input should be a valid list"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_made_up_files(name, tmp_path):
    which, changes, message = OTHER[name]
    kind = KINDS[which]
    path = tmp_path / kind.name
    kind.write(path)
    kind.put(path, {**kind.content(path), **changes})
    tried("faults", f"{which}: {name}")
    with pytest.raises(ValueError, match=message) as caught:
        kind.read(path)
    assert path.name in str(caught.value)


def test_a_state_of_other_heads_is_refused(tmp_path):
    """Of the same settings, and with a right checksum."""
    model, tokenizer = bert()
    data = [("a warm film", 0), ("a film", 1)]
    state = tmp_path / "state.json"
    HeadImportance(model, measure="taylor").run(data, tokenizer=tokenizer, checkpoint=state)
    content = States().content(state)
    content["moments"].update(mean=[[1.0, 2.0, 3.0]] * 3, deviations=[[0.0] * 3] * 3)
    States().put(state, content)
    with pytest.raises(ValueError, match=r"holds scores of \(3, 3\) layers and heads, the model has 3 layers of 2"):
        HeadImportance(model, measure="taylor").run(data, tokenizer=tokenizer, checkpoint=state)


@pytest.mark.parametrize("state", [{}, {"settings": {}, "moments": 3}, {"settings": 1, "moments": None}, [], None])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"(settings|moments|it): "):
        HeadImportance(bert()[0], measure="taylor").load_state_dict(state)


def test_importances_that_are_taken_can_be_drawn(tmp_path):
    path = tmp_path / "heads.json"
    Importances().write(path)
    visualize_head_importance(Importance.load(path), use_pyplot=False)


def test_texts_damaged_by_chance(tmp_path):
    """They are the user's own: what is taken has a text on each line."""
    data = REVIEWS.read_bytes()[:2000]
    for seed in range(200):
        (tmp_path / "x.tsv").write_bytes(mutations.of_bytes(data, seed))
        tried("damaged files", f"texts {seed}")
        message = "x.tsv"
        try:
            examples = read_examples(tmp_path / "x.tsv", labelled=True)
        except ValueError as error:
            message = str(error)
        else:
            assert all(example.text.strip() and example.label for example in examples)
        assert "x.tsv" in message


# Folders of models


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    model, tokenizer = bert()
    plain, pruned = (tmp_path_factory.mktemp(name) for name in ("plain", "pruned"))
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    save_pruned(prune_heads(model, {0: [1], 2: [0]}), pruned, tokenizer)
    return {"plain": plain, "pruned": pruned}


READERS = {"plain": load_classifier, "pruned": lambda folder: (load_pruned(folder), demo()[1])}


@pytest.mark.parametrize("name", READERS)
def test_folders_damaged_by_chance(folders, name, tmp_path):
    """Settings may be changed by hand and have no checksum: what is taken runs."""
    folder = shutil.copytree(folders[name], tmp_path / "folder")
    config = (folder / "config.json").read_bytes()
    batch = demo()[1]("A warm film.", return_tensors="pt")
    refused = 0
    for seed in range(30):
        if seed % 2:
            (folder / "config.json").write_bytes(mutations.of_bytes(config, seed))
        else:
            (folder / "config.json").write_text(json.dumps(mutations.of_values(json.loads(config), seed)))
        tried("damaged files", f"folder {name} {seed}")
        message = str(folder)
        try:
            model, _ = READERS[name](folder)
        except ValueError as error:
            refused += 1
            message = str(error)
        else:
            assert model(**batch).logits.shape[0] == 1
        assert str(folder) in message
    assert refused > 10


@pytest.mark.parametrize(("name", "file"), [("pruned", "model.safetensors"), ("plain", "tokenizer_config.json")])
def test_other_files_of_folders_damaged_by_chance(folders, name, file, tmp_path):
    """The header of the weights, whose numbers have no checksum of ours; the tokenizer's settings."""
    folder = shutil.copytree(folders[name], tmp_path / "folder")
    data = (folder / file).read_bytes()
    count = 8 + int.from_bytes(data[:8], "little") if file.endswith(".safetensors") else len(data)
    refused = 0
    for seed in range(20):
        (folder / file).write_bytes(mutations.of_bytes(data[:count], seed) + data[count:])
        tried("damaged files", f"{file} {seed}")
        message = str(folder)
        try:
            READERS[name](folder)
        except ValueError as error:
            refused += 1
            message = str(error)
        assert str(folder) in message
    assert refused > 10


PLAIN = {
    "no heads": ({"num_attention_heads": 0}, "from this folder: ZeroDivisionError"),
    "heads that do not divide": ({"num_attention_heads": 3}, "from this folder: .*not a multiple"),
    "no labels": ({"id2label": {}, "label2id": {}}, "the numbers none|could be loaded"),
    "labels from 1": (
        {"id2label": {"1": "a", "2": "b", "3": "c"}}, "have the numbers 1, 2, 3, .*Number the labels 0 to 2"
    ),
    "labels with a gap": (
        {"id2label": {"0": "a", "2": "b", "3": "c"}}, "the numbers 0, 2, 3, .*Number the labels 0 to 2"
    ),
    "labels by name": ({"id2label": {"a": 0, "b": 1, "c": 2}}, "could be loaded as .* from this folder: "),
    "labels in a list": ({"id2label": ["a", "b", "c"]}, "could be loaded as .* from this folder: "),
    "another kind of model": ({"model_type": "vit"}, "could be loaded as .* from this folder: "),
    "no kind of model": ({"model_type": None}, "could be loaded as .* from this folder: "),
    "layers without end": ({"num_hidden_layers": 10**9}, "says 1000000000 layers, at most 10000 are built"),
    "code of its own": (
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.A", "AutoModelForSequenceClassification": "evil.B"}},
        "Code that comes with a model is not run here: load the model yourself",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_made_up_folders(folders, name, tmp_path, monkeypatch):
    changes, message = PLAIN[name]
    folder = shutil.copytree(folders["plain"], tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever is asked whether to run it says yes
    tried("faults", f"folder: {name}")
    with pytest.raises(ValueError, match=message):
        Classifier(folder, None, "probability")
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_known_model_is_not_run(folders, tmp_path, monkeypatch):
    folder = shutil.copytree(folders["plain"], tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model, _ = load_classifier(folder)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["plain", "pruned"])
def test_pickled_weights_are_not_read(folders, name, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "folder")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors.* Its weights are pickled.*model.save_pretrained"):
        load_classifier(folder)
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"Its weights are pickled"):
        load_classifier(folder)
