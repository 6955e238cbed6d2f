"""Head importance on two processes, over gloo: the numbers of one process, and errors that reach both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import PartialState
from agreement import assert_agree
from tiny_classifiers import bert

from captum_attattr.heads import AttAttr
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance
from captum_attattr.heads.processes import check_agreement, gathered, joined, raise_together, rank_and_size

TEXTS = [
    ("a warm funny film", 2), ("how unwatchable", 0), ("about films and filmmaking, unfunny and unwatchable", 0),
    ("a film", 1), ("how warming, how watchable!", 2),
]  # fmt: skip

MEASURED = {
    "attattr": AttAttr(n_steps=2, tolerance=None),
    "taylor": "taylor",
    "ablation": "ablation",
    "random": "random",
}


def setting():
    model, tokenizer = bert()
    return model.double(), tokenizer


def numbers(found):
    return found.scores, found.standard_deviation, found.examples


def run(data, measure="taylor", batch_size=2, **options):
    model, tokenizer = setting()
    return HeadImportance(model, measure=measure).run(data, tokenizer=tokenizer, batch_size=batch_size, **options)


def error_of(work):
    try:
        work()
    except ValueError as error:
        return str(error)
    return None


# What each of two processes does. Everything is done in one start, since a start takes seconds.


def uneven_shards(rank, folder):
    """Three batches: one process has two of them, the other has one."""
    return {name: numbers(run(TEXTS, measure)) for name, measure in MEASURED.items()}


def a_process_without_examples(rank, folder):
    return numbers(run(TEXTS[:1]))


def a_part_for_each_by_hand(rank, folder):
    model, tokenizer = setting()
    found = HeadImportance(model, measure="taylor")
    for text, label in TEXTS[rank::2]:
        found.update(tokenizer(text, return_tensors="pt"), [label])
    return numbers(found.compute())


def broken_off_and_taken_up_again(rank, folder):
    state = Path(folder) / "state"
    whole = numbers(run(TEXTS, batch_size=1, checkpoint=state))
    states = [Path(folder) / name for name in ("state", "state.1")]
    kept = [json.loads(path.read_text())["moments"]["count"] for path in states]
    return whole, numbers(run(TEXTS, batch_size=1, checkpoint=state)), kept


def another_model_on_one(rank, folder):
    model, tokenizer = setting()
    model.classifier.bias.data[0] += rank * 1e-6
    found = HeadImportance(model, measure="taylor")
    return error_of(lambda: found.run(TEXTS, tokenizer=tokenizer)), error_of(found.compute)


def another_measure_on_one(rank, folder):
    return error_of(lambda: run(TEXTS, ["taylor", "attention"][rank]))


def other_texts_on_one(rank, folder):
    return error_of(lambda: run(TEXTS[: 5 - rank]))


def another_order_on_one(rank, folder):
    """As of a DataLoader that shuffles, with another seed on each."""
    model, tokenizer = setting()
    batches = [(dict(tokenizer(text, return_tensors="pt")), [label]) for text, label in TEXTS[:: 1 - 2 * rank]]
    return error_of(lambda: HeadImportance(model, measure="taylor").run(batches))


def a_damaged_state_on_one(rank, folder):
    state = Path(folder) / "damaged"
    if rank == 1:
        Path(f"{state}.1").write_text("{")
    return error_of(lambda: run(TEXTS, checkpoint=state))


def plumbing(rank, folder):
    errors = error_of(lambda: raise_together("no luck" if rank == 1 else None))
    return rank_and_size(), gathered(rank * 10), errors, error_of(lambda: check_agreement({"seed": rank}))


JOBS = [
    uneven_shards, a_process_without_examples, a_part_for_each_by_hand, broken_off_and_taken_up_again,
    another_model_on_one, another_measure_on_one, other_texts_on_one, another_order_on_one, a_damaged_state_on_one,
    plumbing,
]  # fmt: skip


def process(rank, folder, port):
    torch.set_num_threads(1)
    # Accelerate sets up the process group here, torchrun in the last test.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert PartialState(cpu=True).backend == "gloo"
    found = {job.__name__: job(rank, folder) for job in JOBS}
    torch.save(found, Path(folder) / f"found.{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(process, args=(str(folder), port), nprocs=2, start_method=forked.METHOD)
    return [torch.load(folder / f"found.{rank}", weights_only=False) for rank in (0, 1)]


def assert_numbers(found, expected):
    *moments, examples = found
    assert_agree(moments, [expected.scores, expected.standard_deviation])
    assert examples == expected.examples


@pytest.mark.parametrize("name", MEASURED)
def test_uneven_shards(two, name):
    expected = run(TEXTS, MEASURED[name])
    for found in two:
        assert_numbers(found["uneven_shards"][name], expected)
    assert_agree(two[0]["uneven_shards"][name][0], two[1]["uneven_shards"][name][0])


def test_a_process_without_examples(two):
    expected = run(TEXTS[:1])
    for found in two:
        assert_agree(found["a_process_without_examples"][0], expected.scores)
        assert found["a_process_without_examples"][2] == 1


def test_a_part_for_each_by_hand(two):
    expected = run(TEXTS, batch_size=1)
    for found in two:
        assert_numbers(found["a_part_for_each_by_hand"], expected)


def test_broken_off_and_taken_up_again(two):
    expected = run(TEXTS, batch_size=1)
    for found in two:
        whole, again, kept = found["broken_off_and_taken_up_again"]
        assert_numbers(whole, expected)
        assert torch.equal(again[0], whole[0])
        assert sorted(kept) == [2, 3]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("another_measure_on_one", "The processes disagree on the measure: process 0 has {'name': 'taylor'}"),
        ("other_texts_on_one", "The processes disagree on the number of examples: process 0 has 5, process 1 has 4"),
        ("another_order_on_one", "The processes disagree on the data"),
        ("a_damaged_state_on_one", "Process 1 of 2: "),
    ],
)
def test_errors_reach_both(two, job, words):
    for found in two:
        assert found[job].startswith(words)


def test_processes_that_disagree_on_the_model(two):
    for found in two:
        for error in found["another_model_on_one"]:
            assert error.startswith("The processes disagree on the model's weights: process 0 has '")
            assert "Load the same model" in error


def test_plumbing(two):
    for rank, found in enumerate(two):
        place, values, error, disagreement = found["plumbing"]
        assert (place, values) == ((rank, 2), [0, 10])
        assert error == "Process 1 of 2: no luck"
        assert "disagree on the seed: process 0 has 0, process 1 has 1 (1 of 1 differ" in disagreement


def test_one_process_is_alone():
    assert rank_and_size() == (0, 1)
    assert gathered("x") == ["x"]
    raise_together(None)
    with pytest.raises(ValueError, match=r"^no luck$"):
        raise_together("no luck")
    with joined() as device:
        assert device.type in ("cpu", "cuda")
        assert not dist.is_initialized()


def test_the_command_under_torchrun(tmp_path):
    model, tokenizer = bert()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = "".join(f"{text}\t{label}\n" for text, label in TEXTS)
    (tmp_path / "texts.tsv").write_text("sentence\tlabel\n" + rows)
    words = ["-m", "captum_attattr.cli", "heads", "--data", "texts.tsv", "--model", "model", "--batch-size", "2"]
    words += ["--measure", "taylor"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, *words, "--output", "two"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("importance of heads by taylor") == 1
    found = Importance.load(tmp_path / "two" / "heads.json")
    expected = HeadImportance(model, measure="taylor").run(TEXTS, tokenizer=tokenizer, batch_size=2)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-8)
    assert found.examples == 5
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["heads.json", "heads.png"]
