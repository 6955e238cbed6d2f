"""Short memory: work is done by halves, an attribution frees its memory, and out-of-memory errors are not swallowed."""

from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import forked
import pytest
import torch
from tiny_models import FAMILIES, case
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.chunks import Chunks
from captum_attattr.engine.memory import is_out_of_memory

BERT = FAMILIES[0]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
CPU = torch.device("cpu")


@pytest.fixture
def at_once(monkeypatch):
    """Without collecting garbage after each failure, of which these tests make hundreds."""
    monkeypatch.setattr(Chunks, "_release", lambda self: None)


def no_memory():
    return RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")


# What says that memory ran out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (no_memory(), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory of a kind"), False),
    ],
    ids=str,
)
def test_what_says_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) == expected


def test_torch_still_says_it_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8).fill_(0)
    assert is_out_of_memory(caught.value)


# Chunks


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("count", [1, 5, 21, 32])
def test_every_row_is_done_once_whatever_fits(count, fits, at_once):
    chunks, tried = Chunks(1, None, CPU), []
    done = torch.zeros(count)

    def job(some):
        tried.append(some.stop - some.start)
        if tried[-1] > fits:
            raise no_memory()
        return some

    for _ in range(2):
        for some in chunks.run(job, [1000] * count):
            done[some] += 1
    assert torch.equal(done, torch.full_like(done, 2))
    second = tried[len(tried) // 2 :]
    assert max(second) <= fits or tried.index(max(second)) == 0  # what was learnt holds for the next run


def test_a_row_that_does_not_fit_says_what_to_do():
    def job(some):
        raise no_memory()

    with pytest.raises(MemoryError, match=r"single row .*fewer tokens.*reduce="):
        list(Chunks(2, None, CPU).run(job, [1] * 6))


def test_other_errors_are_not_tried_again():
    calls = []

    def job(some):
        calls.append(some)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(Chunks(2, None, CPU).run(job, [1] * 6))
    assert len(calls) == 1


# Attributions


@pytest.fixture
def narrow(monkeypatch):
    """``narrow(model, most, times)``: the last dense layer fails on more rows than that, where gradients are kept."""

    def make(model, most):
        rows = []
        dense = model.classifier
        own = dense.forward

        def forward(hidden):
            rows.append(len(hidden))
            if len(hidden) > most and torch.is_grad_enabled():
                raise no_memory()
            return own(hidden)

        monkeypatch.setattr(dense, "forward", forward)
        return rows

    return make


@both_paths
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("options", [{"n_steps": 7}, {"tolerance": 1e-3}, {"internal_batch_size": 14}], ids=str)
def test_halves_give_the_same(path, most, options, narrow, at_once):
    c = case(BERT, batch=2)
    layers = attention_layers(c.model)
    options = {"target": 1, "additional_forward_args": c.mask, "return_convergence_delta": True, **options}
    whole, _ = SelfAttentionAttribution(c.forward, layers, path=path).attribute(c.inputs, **options)
    rows = narrow(c.model, most)
    parts, _ = SelfAttentionAttribution(c.forward, layers, path=path).attribute(c.inputs, **options)
    assert max(rows) > most
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


@both_paths
def test_no_row_fits(path, narrow, at_once):
    c = case(BERT, batch=2)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    method.attribute(c.inputs, target=1, additional_forward_args=c.mask)  # the checks are done
    narrow(c.model, 0)
    with pytest.raises(MemoryError, match=r"fewer tokens.*reduce="):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask)


@pytest.mark.parametrize("call", [2, 3, 4, 5, 6])
def test_checks_do_not_swallow_it(call):
    """The clean pass is the first call; then come those that find out what a replay may do."""
    c = case(BERT, batch=2)
    calls = []

    def forward(*args):
        calls.append(args)
        if len(calls) == call:
            raise MemoryError("thrown by the test")
        return c.forward(*args)

    method = SelfAttentionAttribution(forward, attention_layers(c.model))
    with pytest.raises(MemoryError, match="thrown by the test"):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=2)
    assert len(calls) == call


def rows_under_a_limit():
    """The most rows that were run together where 32 of them would make tensors of 64 MiB each, and 32 MiB are left."""
    import resource  # Unix's

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4096
    )
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(5, 50, (1, 128))
    method = SelfAttentionAttribution(model, attention_layers(model)[0])
    whole = method.attribute(ids, target=1, n_steps=32, internal_batch_size=1)
    rows, own = [], model.classifier.forward
    model.classifier.forward = lambda hidden: rows.append(len(hidden)) or own(hidden)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 32 * 2**20, -1))
    parts = method.attribute(ids, target=1, n_steps=32)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    return max(rows)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_under_a_limit_of_memory():
    with ProcessPoolExecutor(1, mp_context=forked.processes) as pool:
        assert 1 <= pool.submit(rows_under_a_limit).result(timeout=100) < 32


# Nothing stays


@both_paths
@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_an_attribution_frees_what_it_took(path, tolerance):
    """Of operations that keep their own output for the gradient (tanh, softmax, exp) as of all others."""
    c = case(BERT, batch=2, attention="eager")
    made: list[weakref.ref] = []

    class Watched(nn.Module):
        def forward(self, hidden):
            result = hidden.tanh()
            made.append(weakref.ref(result.untyped_storage()))
            return result

    c.model.bert.encoder.layer[2].intermediate.intermediate_act_fn = Watched()
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    for _ in range(2):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=4, tolerance=tolerance)
    gc.collect()
    assert len(made) > 5
    assert sum(storage() is not None for storage in made) == 0
