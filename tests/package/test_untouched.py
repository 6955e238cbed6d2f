"""The user's model is bit for bit as before, whatever happens while the method runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
import transformers.models.bert.modeling_bert as bert
from agreement import assert_agree
from plain_models import PLAIN, plain_inputs, plain_model
from snapshot import snapshot, untouched
from tiny_models import FAMILIES, case, make
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from captum_attattr import SelfAttentionAttribution, attention_layers

__all__ = ["untouched"]

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the user's own, see below

BERT = FAMILIES[0]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@dataclass
class Setting:
    """A tiny BERT with a user's own frozen parameters, hooks and patches; two of its layers are explained."""

    case: object
    layers: list[nn.Module]

    def attribute(self, path="layerwise", forward=None, **options):
        """With everything that may be switched on, so that every callback is reached."""
        method = SelfAttentionAttribution(forward or self.case.forward, self.layers, path=path)
        return method.attribute(
            self.case.inputs, 3, target=1, additional_forward_args=self.case.mask, n_steps=2, internal_batch_size=2,
            return_convergence_delta=True, **options,
        )  # fmt: skip

    def run(self):
        return self.case.forward(self.case.inputs, self.case.mask)


@pytest.fixture
def setting():
    c = case(BERT)
    for parameter in c.model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    next(c.model.classifier.parameters()).grad = torch.ones(3, 32, dtype=torch.float64, device=c.inputs.device)
    c.model.bert.encoder.layer[1].register_forward_hook(lambda *_: None)
    c.model.bert.encoder.layer[1].register_full_backward_hook(lambda *_: None)
    return Setting(c, attention_layers(c.model)[1:])


# After success


@families
@pytest.mark.parametrize(("path", "attention"), [("layerwise", "sdpa"), ("joint", "eager")])
def test_after_success(family, path, attention, untouched):
    c = case(family, attention=attention)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        attributions = method.attribute(c.inputs, target=1, additional_forward_args=c.mask, n_steps=2)
    assert attributions[0].abs().max() > 0
    assert c.inputs.grad is None


@pytest.mark.filterwarnings("ignore:Replaying from")  # time first
@both_paths
@pytest.mark.parametrize("name", PLAIN)
def test_after_success_with_attention_of_its_own(name, path, untouched):
    model, inputs = plain_model(name), plain_inputs(name)
    first, *rest = inputs.values()
    layers = attention_layers(model, inputs)
    method = SelfAttentionAttribution(lambda *tensors: model(*tensors)[:, 0], layers, path=path)
    with untouched(model, lambda: model(**inputs)):
        attributions = method.attribute(first, target=1, additional_forward_args=tuple(rest) or None, n_steps=2)
    assert attributions[0].abs().max() > 0


@both_paths
def test_what_the_user_set_is_kept(setting, path, untouched):
    with untouched(setting.case.model, setting.run):
        setting.attribute(path)


def test_the_attention_function_changes_nothing(setting, untouched):
    c = setting.case
    with untouched(c.model, setting.run):
        method = SelfAttentionAttribution(c.forward, setting.layers)
        function = method.attention_function(c.inputs, c.mask)
        function(*(0.5 * attention for attention in function.attention))


# After an exception, thrown from the inside


class Thrown:
    """Wraps callbacks; the one that is called as number k, of all of them, raises."""

    def __init__(self, kind, k):
        self.kind, self.k, self.calls = kind, k, 0

    def call(self, *_):
        self.calls += 1
        if self.calls == self.k:
            raise self.kind("thrown by the test")

    def before(self, function):
        def wrapper(*args, **kwargs):
            self.call()
            return function(*args, **kwargs)

        return wrapper

    def after(self, function):
        def wrapper(*args, **kwargs):
            result = function(*args, **kwargs)
            self.call()
            return result

        return wrapper


def forward_function_starts(setting, thrown, patch):
    return thrown.before(setting.case.forward)


def forward_function_ends(setting, thrown, patch):
    return thrown.after(setting.case.forward)


def block_hook(setting, thrown, patch):
    patch.setitem(setting.case.model.bert.encoder.layer[1]._forward_hooks, -1, thrown.call)


def block_pre_hook(setting, thrown, patch):
    patch.setitem(setting.case.model.bert.encoder.layer[2]._forward_pre_hooks, -1, thrown.call)


def module_inside_a_block(setting, thrown, patch):
    patch.setattr(bert.BertIntermediate, "forward", thrown.after(bert.BertIntermediate.forward))


def sdpa_attention(setting, thrown, patch):
    patch.setitem(AttentionInterface._global_mapping, "sdpa", thrown.before(ALL_ATTENTION_FUNCTIONS["sdpa"]))


def eager_attention(setting, thrown, patch):
    patch.setattr(bert, "eager_attention_forward", thrown.before(bert.eager_attention_forward))


def mask_function(setting, thrown, patch):
    own = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    patch.setitem(AttentionMaskInterface._global_mapping, "sdpa", thrown.before(own))


def gradient(setting, thrown, patch):
    patch.setattr(torch.autograd, "grad", thrown.after(torch.autograd.grad))


def inside_the_backward_pass(setting, thrown, patch):
    def forward(*args):
        output = setting.case.forward(*args)
        if output.requires_grad:
            output.register_hook(thrown.call)
        return output

    return forward


def progress_bar(setting, thrown, patch):
    patch.setattr("captum_attattr.attribution.integrals.tqdm.update", thrown.before(lambda *_: None))


PLACES = [
    forward_function_starts,
    forward_function_ends,
    block_hook,
    block_pre_hook,
    module_inside_a_block,
    sdpa_attention,
    eager_attention,
    mask_function,
    gradient,
    inside_the_backward_pass,
    progress_bar,
]


@pytest.mark.filterwarnings("ignore:Replaying from")  # an error where a replay is tried out leads to whole passes
@both_paths
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_after_an_exception_at_every_call(place, kind, path, setting, untouched, capsys):
    expected, _ = setting.attribute(path)
    model, before = setting.case.model, snapshot(setting.case.model, setting.run)
    raised = k = calls = 0
    while k == calls:
        k += 1
        with untouched(model, setting.run, before), pytest.MonkeyPatch.context() as patch:
            thrown = Thrown(kind, k)
            forward = place(setting, thrown, patch)
            try:
                attributions, _ = setting.attribute(path, forward, show_progress=place is progress_bar)
            except kind as error:
                assert "thrown by the test" in str(error)  # noqa: PT017
                raised += 1
            else:
                assert kind is not KeyboardInterrupt or thrown.calls < k, "an interrupt was swallowed"
                for one, other in zip(attributions, expected, strict=True):
                    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
            calls = min(thrown.calls, k)
    assert raised > 1


# What the user patched


@both_paths
@pytest.mark.parametrize(
    "name", ["", "bert", "bert.encoder.layer.1", "bert.encoder.layer.0.output.dense", "classifier"]
)
def test_a_users_own_forward_survives_and_is_used(setting, path, name, untouched):
    """As accelerate patches modules: an attribute of the instance, around the method of its class."""
    module = setting.case.model.get_submodule(name)
    own, calls = module.forward, []
    plain = setting.attribute(path)

    def patched(*args, **kwargs):
        calls.append(module)
        output = own(*args, **kwargs)
        if isinstance(output, torch.Tensor):
            return 2 * output
        for key in ("last_hidden_state", "logits"):
            if key in getattr(output, "keys", list)():
                output[key] = 2 * output[key]
        return output

    module.forward = patched
    with untouched(setting.case.model, setting.run):
        by_patch = setting.attribute(path)
    assert module.forward is patched
    assert len(calls) > 2
    del module.forward
    torch.testing.assert_close(setting.attribute(path), plain, atol=0, rtol=0)
    if name not in ("", "bert"):
        handle = module.register_forward_hook(
            lambda module, args, output: 2 * output if isinstance(output, torch.Tensor) else output
        )
        by_hook = setting.attribute(path)
        handle.remove()
        torch.testing.assert_close(by_patch, by_hook, atol=1e-12, rtol=1e-9)
        assert not torch.allclose(by_patch[0][0], plain[0][0])


# Another thread


def assert_same_attribution(one, other):
    (attributions, deltas), (expected, expected_deltas) = one, other
    assert_agree(attributions, expected)
    assert_agree(deltas, expected_deltas, size=1.0)


@both_paths
def test_a_model_in_another_thread_is_not_disturbed(setting, path):
    """It even drops out at random, which for the explained model would be an error."""
    expected = setting.attribute(path)
    other = make(BERT, seed=1)
    ids = torch.arange(5, 12).unsqueeze(0)
    wanted = other(ids).logits.detach()
    trained = make(BERT, seed=2).train()
    outputs, failures, stop, started = [], [], threading.Event(), threading.Event()

    def work():
        try:
            while not stop.is_set():
                outputs.append(other(ids).logits)
                trained(ids).logits.sum().backward()
                started.set()
        except BaseException as error:
            failures.append(error)
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    before = len(outputs)
    try:
        results = [setting.attribute(path) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert len(outputs) > before
    for output in outputs:
        assert_agree(output, wanted)
    for result in results:
        assert_same_attribution(result, expected)


@both_paths
def test_two_threads_attribute_at_the_same_time(path, untouched):
    cases = [case(family) for family in FAMILIES[:2]]
    methods = [SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path) for c in cases]

    def attribute(i):
        return methods[i].attribute(cases[i].inputs, target=1, additional_forward_args=cases[i].mask, n_steps=3)

    expected, results = [attribute(i) for i in range(2)], [[], []]
    barrier = threading.Barrier(2)

    def work(i):
        barrier.wait()
        results[i].extend(attribute(i) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    with (
        untouched(cases[0].model, lambda: cases[0].forward(cases[0].inputs, cases[0].mask)),
        untouched(cases[1].model, lambda: cases[1].forward(cases[1].inputs, cases[1].mask)),
    ):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(2):
        assert len(results[i]) == 5
        for result in results[i]:
            assert_agree(result, expected[i])
