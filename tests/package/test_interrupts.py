"""An interrupt may come at any moment, in the midst of setting up and of cleaning up too: nothing stays changed."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.modules.module as torch_module
import transformers as hf
from snapshot import assert_same, snapshot

import captum_attattr
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attention import backend, mask_heads, modes, stand_ins, torch_functions, undoing
from captum_attattr.attention import transformers_interface as attention
from captum_attattr.engine.gradients import with_gradients

PACKAGE = Path(captum_attattr.__file__).parent
FILES = {
    str(PACKAGE / f"{name}.py")
    for name in (
        "attention/undoing", "attention/backend", "attention/backends", "attention/transformers_interface",
        "attention/torch_functions", "attention/torch_door", "attention/search", "attention/stand_ins",
        "attention/modes", "attention/masking", "engine/module_calls",
    )
}  # fmt: skip
assert all(Path(file).is_file() for file in FILES)
# Of other files the functions that set something or set it back.
FUNCTIONS = {"with_gradients", "switched", "run", "_clean_pass", "saved_bytes", "_run", "_agrees"}


def of_transformers():
    config = hf.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    model = hf.BertForSequenceClassification(config)
    return model, model.bert.encoder.layer[0]


def of_torch():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    model = torch.nn.Sequential(torch.nn.Embedding(20, 8), encoder, torch.nn.Flatten(1), torch.nn.Linear(32, 2))
    return model, model[3]


@pytest.fixture(scope="module", params=[of_transformers, of_torch], ids=lambda build: build.__name__)
def setting(request):
    """A model as small as can be, and something of everything that is set meanwhile: (model, inputs, what to do)."""
    torch.manual_seed(0)
    model, patched = request.param()
    model = model.double().eval()
    ids = torch.randint(3, 20, (2, 4))
    own = patched.forward
    patched.forward = lambda *args, **kwargs: own(*args, **kwargs)  # a user's own patch

    @with_gradients(False)  # torch.no_grad itself may miss an interrupt
    def work():
        with mask_heads(model, {0: [1]}):
            layers = attention_layers(model, ids)
            return SelfAttentionAttribution(model, layers).attribute(ids, target=1, n_steps=1)

    return model, lambda: model(ids), work


@cache
def watched(file, function, event):
    # When mask_heads has returned and its block not begun, a mask lasts: nobody says that it is not to. The last steps
    # of its last line are as good as that.
    begun = function not in ("__enter__", "active", *(("__init__", "mask_heads") if event == "opcode" else ()))
    ours = file.startswith(str(PACKAGE))
    return begun and (file in FILES or (ours and function in FUNCTIONS))


class Interrupt:
    """Raises KeyboardInterrupt before one of the lines is run for the n-th time; without a line it counts them.

    With ``event="opcode"`` these are steps of the interpreter, of which a line has several.
    """

    def __init__(self, line=None, time=1, event="line"):
        self.line, self.time, self.times, self.event = line, time, Counter(), event

    def __call__(self, frame, event, argument):
        if event == "call":
            frame.f_trace_opcodes = self.event == "opcode"
            return self if watched(frame.f_code.co_filename, frame.f_code.co_name, self.event) else None
        if event == self.event:
            place = frame.f_lineno if event == "line" else (frame.f_code.co_firstlineno, frame.f_lasti)
            line = (frame.f_code.co_filename, place)
            self.times[line] += 1
            if line == self.line and self.times[line] == self.time:
                raise KeyboardInterrupt
        return self


def interrupted(work, trace):
    """Whether the interrupt came through."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def left(model):
    """What is set meanwhile, as it is now."""
    return {
        "parameters": [parameter.requires_grad for parameter in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "own forwards": [vars(module).get("forward") for module in model.modules()],
        "hooks of all modules": [
            list(hooks) for name, hooks in vars(torch_module).items() if "_global_forward" in name
        ],
        "hooks": [list(module._forward_pre_hooks) for module in model.modules()],
        "implementation": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "watches and masks": (
            attention._watches.get(),
            torch_functions._handlers.get(),
            stand_ins._forwards.get(),
            list(backend.masks),
            list(torch_functions._carriers),
        ),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "saved tensors": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "lock": _lock_is_free(),
    }


def _lock_is_free():
    """For another thread."""
    free = []

    def attempt():
        free.append(undoing._lock.acquire(blocking=False))
        if free == [True]:
            undoing._lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return free


@pytest.mark.filterwarnings("ignore:Replaying from")  # where a replay is tried out
@pytest.mark.in_turn
def test_at_every_line_of_what_sets_up_and_cleans_up(setting):
    model, run, work = setting
    whole, before, expected = snapshot(model, run), left(model), work()
    counted = Interrupt()
    assert not interrupted(work, counted)
    assert len(counted.times) > 120
    chance = random.Random(0)
    for line, times in sorted(counted.times.items()):
        time = chance.randint(1, times)
        assert interrupted(work, Interrupt(line, time)), f"swallowed at {line}"
        after = left(model)
        assert after == before, f"{[name for name in before if after[name] != before[name]]} after {line}, {time}"
    assert_same(whole, snapshot(model, run))
    torch.testing.assert_close(work(), expected, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:Replaying from")
@pytest.mark.in_turn
def test_within_the_lines(setting):
    """A line that makes a change and notes how to undo it is not one step."""
    model, _, work = setting
    work()  # what is computed once and kept would not be interrupted a second time
    before, counted = left(model), Interrupt(event="opcode")
    assert not interrupted(work, counted)
    chance = random.Random(0)
    for step in chance.sample(sorted(counted.times), 80):
        assert interrupted(work, Interrupt(step, chance.randint(1, counted.times[step]), "opcode"))
        after = left(model)
        assert after == before, f"{[name for name in before if after[name] != before[name]]} after {step}"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_by_signals_at_any_time(setting):
    model, run, work = setting
    whole, before, expected = snapshot(model, run), left(model), work()
    chance, came = random.Random(0), 0
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.03))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                came += 1
            assert left(model) == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert came > 6
    assert_same(whole, snapshot(model, run))
    torch.testing.assert_close(work(), expected, atol=0, rtol=0)


def test_a_mode_that_torch_has_taken_off_for_a_function_does_not_come_back():
    """torch puts it back by a generator: stopped on the way out of it, that one would do so when it is collected."""

    class Seen(modes.Mode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    def trace(frame, event, argument):
        if frame.f_code.co_name == "__exit__" and frame.f_code.co_filename.endswith("contextlib.py"):
            sys.settrace(None)
            raise KeyboardInterrupt

    before, kept = sys.gettrace(), None
    sys.settrace(trace)
    try:
        Seen().during(lambda: torch.nn.functional.dropout(torch.ones(2), training=False))
    except KeyboardInterrupt as error:
        kept = error
    finally:
        sys.settrace(before)
    assert isinstance(kept, KeyboardInterrupt)
    assert torch.overrides._get_current_function_mode_stack() == []
    del kept
    gc.collect()
    assert torch.overrides._get_current_function_mode_stack() == []
