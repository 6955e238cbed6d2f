"""One model, several threads: each gets what it would get alone, and who only runs the model never notices."""

from __future__ import annotations

import copy
import sys
import threading

import pytest
import torch
from snapshot import untouched
from tiny_models import FAMILIES, case

from captum_attattr import HeadImportance, SelfAttentionAttribution, attention_layers
from captum_attattr.attention import mask_heads
from captum_attattr.engine.module_state import ModuleState

__all__ = ["untouched"]

BERT, GPT2 = FAMILIES[0], FAMILIES[4]


@pytest.fixture(autouse=True)
def _restless():
    """Threads take turns a hundred times more often than they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(interval)


def at_once(*jobs):
    """Results of all jobs, one thread each, that start together; the first error of any is raised."""
    barrier, results, errors = threading.Barrier(len(jobs)), [None] * len(jobs), []

    def work(number):
        try:
            barrier.wait()
            results[number] = jobs[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def attribution(c, layers=None, path="layerwise"):
    """With whatever is set and undone on the way: baselines, a tolerance, the delta."""
    layers = attention_layers(c.model) if layers is None else layers
    method = SelfAttentionAttribution(c.forward, layers, path=path)
    return lambda: method.attribute(
        c.inputs, 3, 1, c.mask, n_steps=8, tolerance=0.01, return_convergence_delta=True
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:n_steps=8 did not suffice")
@pytest.mark.parametrize("family", [BERT, GPT2], ids=lambda family: family.name)
def test_attributions_on_one_model_at_once(family, untouched):
    c = case(family)
    layers = attention_layers(c.model)
    jobs = [
        attribution(c), attribution(c, path="joint"), attribution(c, layers[1:]), attribution(c, layers[2])
    ]  # fmt: skip
    alone = [job() for job in jobs]
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        for _ in range(2):
            for ours, theirs in zip(at_once(*jobs), alone, strict=True):
                torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_measures_on_one_model_at_once(untouched):
    c = case(BERT)
    batch = {"input_ids": c.inputs, "attention_mask": c.mask}

    def measured(measure):
        def job():
            importance = HeadImportance(c.model, measure=measure)
            importance.update(batch, [1, 2])
            return importance.compute().scores

        return job

    jobs = [measured(measure) for measure in ("attattr", "taylor", "attention", "ablation")]
    alone = [job() for job in jobs]
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        for ours, theirs in zip(at_once(*jobs), alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def attributing_until(done, c):
    """A job that attributes again and again until another one is done."""
    job = attribution(c)

    def work():
        count = 0
        while not done.is_set() or not count:
            job()
            count += 1
        return count

    return work


def ending(done, job):
    def work():
        try:
            return job()
        finally:
            done.set()

    return work


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_who_only_runs_the_model_gets_the_untouched_one(attention, untouched):
    c = case(BERT, attention=attention)
    wanted = c.model(c.inputs, attention_mask=c.mask).logits.detach()

    def run():
        with torch.no_grad():
            return [c.model(c.inputs, attention_mask=c.mask).logits for _ in range(300)]

    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        done = threading.Event()
        outputs, count = at_once(ending(done, run), attributing_until(done, c))
    assert count > 0
    assert all(torch.equal(output, wanted) for output in outputs)


def test_who_trains_the_model_gets_its_gradients():
    c = case(BERT)
    alone = copy.deepcopy(c.model)
    alone(c.inputs, attention_mask=c.mask).logits.sum().backward()
    wanted = {name: parameter.grad for name, parameter in alone.named_parameters()}

    def train():
        found = []
        for _ in range(30):
            c.model.zero_grad()
            c.model(c.inputs, attention_mask=c.mask).logits.sum().backward()
            found.append({name: parameter.grad for name, parameter in c.model.named_parameters()})
        return found

    done = threading.Event()
    found, count = at_once(ending(done, train), attributing_until(done, c))
    assert count > 0
    for gradients in found:
        torch.testing.assert_close(gradients, wanted, atol=1e-12, rtol=1e-12)


def test_parameters_may_be_frozen_or_not():
    c = case(BERT)
    expected = attribution(c)()
    c.model.requires_grad_(False)
    torch.testing.assert_close(attribution(c)(), expected, atol=1e-12, rtol=1e-9)
    assert not any(parameter.requires_grad for parameter in c.model.parameters())


def test_masks_come_and_go_while_the_model_runs(untouched):
    """A mask is for all threads: each run is that of the masked or of the whole model, or has heads of both."""
    c, other = case(BERT), case(GPT2)
    expected = attribution(other)()

    def mask():
        for _ in range(200):
            with mask_heads(c.model, {0: [1], 2: [0]}):
                c.forward(c.inputs, c.mask)

    def run():
        return [c.forward(c.inputs, c.mask) for _ in range(100)]

    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        _, outputs, ours = at_once(mask, run, attribution(other))
    assert all(output.isfinite().all() for output in outputs)
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)


def test_state_is_read_while_another_thread_sets_what_modules_run():
    module, ended = torch.nn.Linear(2, 2), threading.Event()

    def set_and_remove():
        while not ended.is_set():
            vars(module)["forward"] = abs
            del vars(module)["forward"]

    other = threading.Thread(target=set_and_remove)
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for _ in range(2000):
            assert not ModuleState([module]).restore()
    finally:
        ended.set()
        other.join()
