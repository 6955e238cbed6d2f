"""Files are written whole or not at all, with one mode, and by one process at a time where it matters."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from made_explanations import made
from prunable import BERT, pruned, same_weights
from tiny_classifiers import bert, demo
from tiny_models import case
from tried import tried

from captum_attattr import Report
from captum_attattr.files.digest import Digest
from captum_attattr.files.writing import filling, only_here, writing
from captum_attattr.heads.checkpoint import Checkpoint
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.pruning import load_pruned, save_pruned
from captum_attattr.text.classifier import load_classifier
from captum_attattr.triggers.patterns import Trigger, save_triggers


def checkpoint(path):
    with Checkpoint.open(path, {}) as state:
        state.write(1, 1, Digest(), None)


def figure(path):
    from captum_attattr.pictures.explanations import visualize_explanation

    with writing("The picture", path) as part:
        visualize_explanation(made(3))[0].savefig(part)


WRITERS = {
    "x.safetensors": lambda path: made(3).save(path),
    "heads.json": lambda path: Importance(torch.ones(2, 2), torch.ones(2, 2), 2, "taylor", {}).save(path),
    "triggers.json": lambda path: save_triggers([Trigger(("a",), (0.0,))], path),
    "page.html": lambda path: Report(made(3)).save(path),
    "state.json": checkpoint,
    "picture.png": figure,
}
writers = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture
def umask():
    before = os.umask(0o026)
    yield 0o640
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@writers
def test_all_files_have_the_mode_that_the_umask_says(name, tmp_path, umask):
    path = tmp_path / name
    WRITERS[name](path)
    assert mode(path) == umask
    path.chmod(0o600)
    WRITERS[name](path)
    assert mode(path) == umask
    assert [file.name for file in tmp_path.iterdir()] == [name]


@writers
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the disk is full"), MemoryError])
def test_what_is_broken_off_leaves_what_was_there(name, error, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr("captum_attattr.files.writing._finish", fail)
    tried("faults", f"{name}: {error!r}")
    with pytest.raises(ValueError if isinstance(error, OSError) else error, match=r"the disk is full|^$"):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file.txt")
    with writing("It", tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "real" / "file.txt").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(ValueError, match=r"It cannot be written to .*pipe: it exists already and is no regular file"),
        writing("It", tmp_path / "pipe"),
    ):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


# Folders


@pytest.fixture(scope="module")
def models():
    return [pruned(case(BERT, seed=seed), {0: [seed]}).model for seed in (0, 1)]


@pytest.mark.parametrize("step", range(8))
def test_a_pruned_model_is_the_old_one_or_the_new_one_or_none(models, step, tmp_path, monkeypatch):
    """Whenever the process ends: never the new settings with old weights."""
    old, new = models
    save_pruned(old, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    counted = 0

    def failing(function):
        def count(*args, **options):
            nonlocal counted
            counted += 1
            if counted > step:
                raise KeyboardInterrupt
            return function(*args, **options)

        return count

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, failing(getattr(Path, name)))
        try:
            save_pruned(new, tmp_path)
        except KeyboardInterrupt:
            tried("faults", f"save_pruned, step {step}")
        else:
            assert step >= counted
    assert (tmp_path / "notes.txt").read_text() == "mine"
    try:
        loaded = load_pruned(tmp_path)
    except ValueError as error:
        loaded, message = None, str(error)
    if loaded is None:
        assert "no config.json there" in message
    else:
        assert same_weights(loaded, old) or same_weights(loaded, new)


def test_all_files_of_a_pruned_model_have_one_mode(models, tmp_path, umask):
    save_pruned(models[0], tmp_path / "new" / "folder", demo()[1])
    files = list((tmp_path / "new" / "folder").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert {mode(file) for file in files} == {umask}


def test_a_folder_that_was_made_for_nothing_is_taken_away(models, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("the disk is full")

    with pytest.raises(ValueError, match=r"The pruned model cannot be written to .*folder: the disk is full"):
        save_pruned(models[0], tmp_path / "folder", Broken())
    assert not (tmp_path / "folder").exists()


def test_weights_of_before_do_not_stay_beside_the_new_ones(models, tmp_path):
    """transformers would take a single file first, and so the wrong one."""
    models[0].save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    save_pruned(models[1], tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert same_weights(load_pruned(tmp_path), models[1])


def test_files_in_folders_of_the_filled_one(tmp_path):
    with filling("It", tmp_path / "folder", "last") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("a")
        (part / "last").write_text("b")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "a"
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["inner", "last"]


def test_a_saved_classifier_is_read_again(tmp_path):
    model, tokenizer = bert()
    save_pruned(model, tmp_path, tokenizer)
    again, _ = load_classifier(tmp_path)
    batch = tokenizer("A warm film.", return_tensors="pt")
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=1e-6, atol=1e-7)


# One at a time


def test_another_process_is_refused_while_one_is_at_a_file(tmp_path):
    path = tmp_path / "new" / "state.json"
    with only_here(path):
        child = os.fork()
        if child == 0:
            try:
                with only_here(path):
                    os._exit(1)
            except ValueError as error:
                os._exit(0 if "is in use by another process" in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with only_here(path):  # free again
        pass


def test_two_runs_on_one_state(tmp_path):
    model, tokenizer = bert()
    data = [("a warm film", 0), ("a film", 1)]
    state = tmp_path / "state.json"
    first, second = HeadImportance(model, measure="taylor"), HeadImportance(model, measure="taylor")
    with (
        Checkpoint.open(state, {}),
        pytest.raises(ValueError, match=r"state.json is in use by another process: wait"),
    ):
        second.run(data, tokenizer=tokenizer, checkpoint=state)
    first.run(data, tokenizer=tokenizer, checkpoint=state)
    before = state.read_bytes()
    assert second.run(data, tokenizer=tokenizer, checkpoint=state).examples == 2
    assert state.read_bytes() == before


def test_an_error_frees_the_state(tmp_path):
    with pytest.raises(KeyError), Checkpoint.open(tmp_path / "state.json", {}):
        raise KeyError
    checkpoint(tmp_path / "state.json")
