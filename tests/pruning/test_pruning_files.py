"""Pruned models in folders: written and read back, refused by plain loading, and clear about what is broken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from agreement import assert_agree
from prunable import (
    BERT,
    BY_NAME,
    DEBERTA,
    EMPTY,
    HEADS,
    families,
    pruned,
    run,
    same_weights,
    some_heads,
)
from snapshot import untouched
from tiny_classifiers import bert, demo
from tiny_models import case

from captum_attattr import explain
from captum_attattr.attention import mask_heads, remaining_heads
from captum_attattr.pruning import prune_heads
from captum_attattr.pruning.pruned_files import is_pruned, load_pruned, save_pruned
from captum_attattr.text.classifier import load_classifier

__all__ = ["untouched"]


@families
@some_heads
def test_saved_and_loaded(family, heads, tmp_path):
    c = case(family)
    p = pruned(c, heads)
    save_pruned(p.model, tmp_path)
    loaded = load_pruned(tmp_path)
    assert type(loaded) is type(p.model)
    assert same_weights(loaded, p.model)
    assert (loaded.dtype, loaded.training) == (torch.float64, False)
    assert remaining_heads(loaded) == remaining_heads(p.model)
    assert_agree(run(replace(p, model=loaded)), run(p), digits=family.rounding)
    last = {2: [0, 1]}
    assert_agree(run(pruned(replace(p, model=loaded), last)), run(pruned(p, last)), digits=family.rounding)


@pytest.mark.parametrize("saved", [torch.float16, torch.float32])
def test_dtype_and_options_of_loading(saved, tmp_path):
    save_pruned(pruned(case(BERT, dtype=saved), HEADS).model, tmp_path)
    assert load_pruned(tmp_path).dtype == saved
    model = load_pruned(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert model.bert.encoder.layer[0].attention.self.query.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit"])
def test_plain_loading_points_to_load_pruned(name, tmp_path):
    model = pruned(case(BY_NAME[name]), HEADS).model
    save_pruned(model, tmp_path)
    for plain in (hf.AutoModel, type(model)):
        with pytest.raises(ValueError, match=r"captum_attattr\.load_pruned"):
            plain.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"captum_attattr\.load_pruned"):
        hf.AutoModel.from_config(hf.AutoConfig.from_pretrained(tmp_path))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # nor does it make up weights where one insists
        type(model).from_pretrained(tmp_path, attn_implementation="sdpa")


@pytest.mark.parametrize("family", DEBERTA, ids=lambda family: family.name)
def test_deberta(family, tmp_path):
    """Its projections of positions are cut, too, and its code needs a head in each layer."""
    c = case(family)
    with mask_heads(c.model, HEADS):
        masked = run(c)
    p = pruned(c, HEADS)
    torch.testing.assert_close(run(p), masked, rtol=1e-9, atol=1e-12)
    save_pruned(p.model, tmp_path)
    loaded = load_pruned(tmp_path)
    assert same_weights(loaded, p.model)
    torch.testing.assert_close(run(replace(p, model=loaded.double())), masked, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="DisentangledSelfAttention does not run without any heads: leave one"):
        prune_heads(c.model, EMPTY)
    torch.testing.assert_close(run(c), run(case(family)), rtol=0, atol=0)


def test_checkpoints_of_a_trainer(tmp_path):
    """Which are written by the model's own save_pretrained."""
    p = pruned(case(BERT), EMPTY)
    p.model.save_pretrained(tmp_path)
    assert is_pruned(tmp_path)
    assert same_weights(load_pruned(tmp_path), p.model)
    with pytest.raises(RuntimeError):
        type(p.model).from_pretrained(tmp_path)


def test_a_model_that_lost_nothing(tmp_path):
    model = case(BERT).model
    save_pruned(model, tmp_path)
    assert same_weights(load_pruned(tmp_path), model)
    assert same_weights(type(model).from_pretrained(tmp_path), model)


def test_saved_twice_and_over_another(tmp_path):
    c = case(BERT)
    for heads in (EMPTY, HEADS, {}):
        p = pruned(c, heads)
        save_pruned(p.model, tmp_path)
        save_pruned(load_pruned(tmp_path), tmp_path)
        assert same_weights(load_pruned(tmp_path), p.model)


def test_a_class_of_ones_own(tmp_path):
    class Own(hf.BertForSequenceClassification):
        pass

    model = Own(case(BERT).model.config).eval()
    save_pruned(prune_heads(model, HEADS), tmp_path)
    with pytest.raises(ValueError, match=r"'Own', which transformers does not have.*model_class"):
        load_pruned(tmp_path)
    loaded = load_pruned(tmp_path, Own)
    assert type(loaded) is Own
    assert same_weights(loaded, model)


@pytest.fixture(scope="module")
def saved_classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    model, tokenizer = bert()
    save_pruned(prune_heads(model, {0: [1], 2: [0]}), folder, tokenizer)
    return folder


def test_a_pruned_classifier_with_its_tokenizer(saved_classifier):
    model, tokenizer = load_classifier(saved_classifier)
    assert remaining_heads(model) == [[0], [0, 1], [1]]
    assert tokenizer("A warm film.")["input_ids"] == demo()[1]("A warm film.")["input_ids"]
    assert type(hf.AutoTokenizer.from_pretrained(saved_classifier)) is type(demo()[1])
    batch = tokenizer("A warm, funny film.", return_tensors="pt")
    assert_agree(model(**batch).logits, load_pruned(saved_classifier)(**batch).logits)


def test_a_pruned_classifier_is_explained_by_its_folder(saved_classifier):
    """Like the masked one, head for head."""
    ours = explain("A warm, funny film.", str(saved_classifier), target=1)
    model, tokenizer = bert()
    with mask_heads(model, {0: [1], 2: [0]}):
        masked = explain("A warm, funny film.", model, tokenizer, target=1)
    assert ours.attributions.shape == masked.attributions.shape
    torch.testing.assert_close(ours.attributions, masked.attributions, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.attention, masked.attention, atol=1e-6, rtol=0)


# Folders that are broken


def edit(folder, **changes):
    path = Path(folder) / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


RECORD = "captum_attattr_pruned_heads"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({RECORD: None}, "lists no pruned heads; load the model with from_pretrained"),
        ({RECORD: [1]}, "not the configuration of a pruned model"),
        ({RECORD: {"a": [0]}}, "not the configuration of a pruned model.*'a'"),
        ({RECORD: {"7": [0]}}, "could not be loaded: There is no layer 7"),
        ({RECORD: {"0": [5]}}, "could not be loaded: Layer 0 has no head 5"),
        ({RECORD: {"0": [1, 1]}}, "could not be loaded: Head 1 of layer 0 is given twice"),
        ({RECORD: {"0": [0, 1]}}, "not those of the model.*mismatched keys.*layer.0.attention"),
        ({RECORD: {}}, "not those of the model.*mismatched keys.*layer.0.attention"),
        ({"model_type": "no such"}, "not the configuration of a pruned model.*no such"),
        ({"model_type": None}, "not the configuration of a pruned model"),
        (
            {"model_type": "modernbert", "architectures": ["ModernBertModel"]},
            "could not be loaded: Heads cannot be cut",
        ),
        ({"num_attention_heads": "many"}, "not the configuration of a pruned model.*num_attention_heads"),
        ({"num_hidden_layers": 4}, "not those of the model.*missing keys: bert.encoder.layer.3"),
        ({"num_hidden_layers": 2, RECORD: {"0": [1]}}, "not those of the model.*unexpected keys: bert.encoder.layer.2"),
        ({"architectures": None}, "a 'model without a name', which transformers does not have"),
        ({"architectures": ["Nothing"]}, "a 'Nothing', which transformers does not have"),
        ({"architectures": ["BertTokenizer"]}, "a 'BertTokenizer', which"),
        ({"architectures": ["BertModel"]}, "not those of the model.*unexpected keys: classifier.bias"),
    ],
    ids=str,
)
def test_tampered_configurations(changes, message, saved_classifier, tmp_path):
    folder = shutil.copytree(saved_classifier, tmp_path / "folder")
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_pruned(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "There is no pruned model in .*: no config.json"),
        ("config.json", b"", "not the configuration of a pruned model"),
        ("config.json", b'{"model_type": "bert", "captum', "not the configuration of a pruned model"),
        ("config.json", b"[]", "not the configuration of a pruned model.*a list, not a mapping"),
        ("config.json", b"\xff\xfe", "not the configuration of a pruned model"),
        ("model.safetensors", None, "could not be loaded: .*model.safetensors"),
        ("model.safetensors", b"", "could not be loaded"),
        ("model.safetensors", 1000, "could not be loaded"),
        ("model.safetensors", -100, "could not be loaded"),
    ],
    ids=str,
)
def test_half_written_files(name, content, message, saved_classifier, tmp_path):
    folder = shutil.copytree(saved_classifier, tmp_path / "folder")
    path = folder / name
    if isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content])
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_pruned(folder)


def test_where_nothing_can_be_saved_or_loaded(tmp_path):
    model = pruned(case(BERT), HEADS).model
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        save_pruned(model, tmp_path / "file")
    with pytest.raises(TypeError, match="must be a tokenizer or processor of transformers, got str"):
        save_pruned(model, tmp_path / "folder", "bert-base-uncased")
    assert not (tmp_path / "folder").exists()
    for missing in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ValueError, match="There is no pruned model in"):
            load_pruned(missing)
    assert not is_pruned(tmp_path)
