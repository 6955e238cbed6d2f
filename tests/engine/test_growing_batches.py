"""Rows of several layers in one replay: the same results, fewer and larger runs, and one layer at a time elsewhere."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from agreement import assert_agree
from plain_models import WIDTH, Blocks, Einsum, Fused
from rough_models import sink_model
from tiny_models import FAMILIES, case
from tiny_seq2seq import CROSS
from torch import nn

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import kinks_above
from captum_attattr.engine.replay import Recording

BY_NAME = {family.name: family for family in FAMILIES}


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 60, shape, generator=torch.Generator().manual_seed(1))


def joins(forward: Callable[..., torch.Tensor], layers: list[nn.Module], *inputs: torch.Tensor) -> bool:
    recording = Recording(Forward(forward, inputs), Listed(layers))
    return recording.joins(min(state.index for state in recording.states))


def assert_same_as_one_by_one(forward, layers, inputs, digits=1e-11, **options):
    together = SelfAttentionAttribution(forward, layers).attribute(inputs, **options)
    for layer, ours in zip(layers, together, strict=True):
        assert_agree(ours, SelfAttentionAttribution(forward, layer).attribute(inputs, **options), digits=digits)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_join_in_every_family_and_give_what_each_layer_gives_by_itself(family, batch):
    c = case(family, batch=batch)
    layers = attention_layers(c.model)
    given = (c.inputs,) if c.mask is None else (c.inputs, c.mask)
    assert joins(c.forward, layers, *given)
    assert_same_as_one_by_one(c.forward, layers[::-1], given, max(family.digits, 1e-11), target=1, tolerance=1e-3)


@pytest.mark.parametrize("name", CROSS)
def test_rows_join_across_an_encoder_and_a_decoder(name):
    torch.manual_seed(0)
    model = CROSS[name]().double().eval()
    forward = lambda source, target: model(input_ids=source, decoder_input_ids=target, use_cache=False).logits[:, -1]
    layers = attention_layers(model)
    assert joins(forward, layers, ids(2, 6), ids(2, 4))
    assert_same_as_one_by_one(forward, layers, (ids(2, 6), ids(2, 4)), target=3, n_steps=3)


def test_each_block_runs_once_on_the_rows_that_have_joined():
    c = case(BY_NAME["bert"], batch=2, padded=False)
    layers, met = attention_layers(c.model), []
    method = SelfAttentionAttribution(c.forward, layers)
    method.attribute(c.inputs, target=1, n_steps=5)  # with the checks
    for number, block in enumerate(c.model.bert.encoder.layer):
        block.intermediate.register_forward_hook(
            lambda m, args, out, number=number: met.append((number, len(out), out.requires_grad))
        )
    method.attribute(c.inputs, target=1, n_steps=5)
    with_gradients = [(number, rows) for number, rows, gradients in met if gradients]
    assert with_gradients == [(0, 10), (1, 20), (2, 30)]


def test_one_row_an_example_at_the_models_own_attention_serves_all_layers():
    c = case(BY_NAME["bert"], batch=2, padded=False)
    layers, rows = attention_layers(c.model), []
    method = SelfAttentionAttribution(c.forward, layers)
    method.attribute(c.inputs, target=1, tolerance=0.5)
    c.model.classifier.register_forward_hook(lambda m, args, out: rows.append((len(out), out.requires_grad)))
    method.attribute(c.inputs, target=1, tolerance=0.5)
    assert method.convergence.evaluations.eq(3).all()
    assert [count for count, gradients in rows if gradients] == [2 + 3 * 3 * 2]


def test_layers_that_have_converged_leave_the_batch():
    c = sink_model()
    layers = attention_layers(c.model)
    method = SelfAttentionAttribution(c.forward, layers)
    method.attribute(c.inputs, target=1, tolerance=1e-4)
    taken = method.convergence.evaluations
    assert len(taken.unique()) > 2
    assert_same_as_one_by_one(c.forward, layers, c.inputs, target=1, tolerance=1e-4)
    for layer, expected in zip(layers, taken, strict=True):
        alone = SelfAttentionAttribution(c.forward, layer)
        alone.attribute(c.inputs, target=1, tolerance=1e-4)
        assert torch.equal(alone.convergence.evaluations[0], expected)


class InAnObject(nn.Module):
    """A block that gets its states in an object, whose tensors cannot be told apart from anything else."""

    def __init__(self):
        super().__init__()
        self.attention = Einsum()

    def forward(self, given):
        return given.states + self.attention(given.states)


class Scaled(nn.Module):
    """A block with an argument that is as long as the text, and no row of the batch."""

    def __init__(self):
        super().__init__()
        self.attention = Fused()

    def forward(self, states, scales):
        return states + self.attention(states) * scales[:, None]


class Sides(nn.Module):
    def __init__(self, block: type[nn.Module], argument):
        super().__init__()
        self.embeddings, self.output = nn.Embedding(99, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks, self.argument = nn.ModuleList(block() for _ in range(3)), argument

    def forward(self, tokens):
        states = self.embeddings(tokens)
        for block in self.blocks:
            states = block(*self.argument(states))
        return self.output(states[:, 0])


def test_where_rows_cannot_join_each_layer_is_replayed_by_itself():
    torch.manual_seed(0)
    model = Sides(InAnObject, lambda states: [SimpleNamespace(states=states)]).double().eval()
    layers = [block.attention for block in model.blocks]
    assert not joins(model, layers, ids(2, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_as_one_by_one(model, layers, ids(2, 5), target=1, tolerance=1e-3)


@pytest.mark.parametrize("length", [2, 4, 6, 8, 12, 20])
@pytest.mark.parametrize("batch", [1, 2])
def test_arguments_that_are_as_long_as_the_batch_by_chance_are_left_alone(length, batch):
    """Two examples at four points in three layers: the batch has 8, 16 and 24 rows, the argument as many entries."""
    torch.manual_seed(0)
    model = Sides(Scaled, lambda states: [states, torch.linspace(1, 2, states.shape[1]).double()]).double().eval()
    layers = [block.attention for block in model.blocks]
    assert joins(model, layers, ids(batch, length))
    assert_same_as_one_by_one(model, layers, ids(batch, length), target=1, n_steps=4)


@pytest.mark.parametrize("most", [3e3, 1e4, 3e4, 1e5, 1e6])
@pytest.mark.parametrize("options", [{"n_steps": 5}, {"tolerance": 1e-3}], ids=str)
def test_memory_cuts_the_batch_anywhere(most, options, monkeypatch):
    torch.manual_seed(0)
    model = Blocks(*(Fused() for _ in range(4))).double().eval()
    forward = lambda tokens: model(tokens)[:, 0]
    whole = SelfAttentionAttribution(forward, list(model.attention)).attribute(ids(3, 6), target=1, **options)
    monkeypatch.setattr("captum_attattr.engine.chunks._CPU_BYTES", most)
    cut = SelfAttentionAttribution(forward, list(model.attention)).attribute(ids(3, 6), target=1, **options)
    for one, other in zip(cut, whole, strict=True):
        assert_agree(one, other, digits=1e-11)


def test_a_kink_counts_for_the_layers_below_it_only():
    first, second, third = (torch.ones(3, requires_grad=True) for _ in range(3))
    lower = first.exp() + second
    output = (torch.relu(lower).sin() + third.tanh() * lower.detach()).sum()
    assert kinks_above(output, [first, second, third]) == [True, True, False]


def test_what_a_row_costs_is_known_by_layer():
    """The cost of higher layers is measured where the lowest is checked, and nearly what it is by themselves."""
    c = case(BY_NAME["bert"], batch=1, padded=False)
    layers = attention_layers(c.model)
    recording = Recording(Forward(c.forward, c.inputs), Listed(layers))
    together = [recording.cost(state.index).row_bytes for state in recording.states]
    alone = [Recording(Forward(c.forward, c.inputs), Listed([layer])) for layer in layers]
    apart = [recording.cost(recording.states[0].index).row_bytes for recording in alone]
    assert together == sorted(together, reverse=True)
    assert all(0.99 * own <= known <= 1.3 * own for own, known in zip(apart, together, strict=True))


@pytest.mark.parametrize("longest", [0, 1])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_mask_that_is_left_out_where_it_forbids_nothing(name, longest):
    """A longest example by itself has no mask: neither where it is last, nor where it alone has not converged."""
    model = case(BY_NAME[name], attention="sdpa").model
    layers, mask = attention_layers(model), torch.ones(2, 7, dtype=torch.long)
    mask[1 - longest, 4:] = 0
    forward = lambda ids, mask: model(ids, attention_mask=mask, use_cache=False).logits
    assert joins(forward, layers, ids(2, 7), mask)
    options = {"target": 1, "tolerance": 1e-4, "additional_forward_args": mask}
    together = SelfAttentionAttribution(forward, layers)
    found = together.attribute(ids(2, 7), **options)
    for example in (0, 1):
        alone = {**options, "additional_forward_args": mask[example : example + 1]}
        apart = SelfAttentionAttribution(forward, layers).attribute(ids(2, 7)[example : example + 1], **alone)
        for one, other in zip(found, apart, strict=True):
            assert_agree(one[example : example + 1], other, digits=1e-9)


@pytest.mark.parametrize("order", [[7, 4], [4, 7], [7, 4, 7, 4]], ids=str)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_one_method_for_texts_with_and_without_a_mask(name, order):
    """What was found for a text without padding, whose mask is left out, need not hold for one with padding."""
    model = case(BY_NAME[name], attention="sdpa").model
    layers, options = attention_layers(model), {"target": 1, "n_steps": 3}
    forward = lambda ids, mask: model(ids, attention_mask=mask, use_cache=False).logits
    method = SelfAttentionAttribution(forward, layers)
    for length in order:
        mask = (torch.arange(7) < length).long()[None]
        found = method.attribute(ids(1, 7), additional_forward_args=mask, **options)
        fresh = SelfAttentionAttribution(forward, layers)
        for one, other in zip(found, fresh.attribute(ids(1, 7), additional_forward_args=mask, **options), strict=True):
            assert_agree(one, other)


class Copying(nn.Module):
    """Two layers, of which the upper one's weights reach the output beside its context."""

    def __init__(self):
        super().__init__()
        self.embeddings, self.output = nn.Embedding(99, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(nn.MultiheadAttention(WIDTH, 4, batch_first=True) for _ in range(2))

    def forward(self, tokens):
        states = self.embeddings(tokens)
        for layer in self.layers:
            context, weights = layer(states, states, states)
            states = states + context
        return self.output(states[:, 0]) + weights[:, 0, :3]


@pytest.mark.filterwarnings("ignore:Replaying from")
def test_weights_of_an_upper_layer_that_reach_the_output_are_refused_where_rows_join_too():
    torch.manual_seed(0)
    model = Copying().double().eval()
    with pytest.raises(ValueError, match="attention weights that a layer returns"):
        SelfAttentionAttribution(model, list(model.layers)).attribute(ids(2, 5), target=1, n_steps=3)


class Failing(Sides):
    """A model that tries one block on more than one row, and goes on without it where that fails."""

    def forward(self, tokens):
        states = self.embeddings(tokens)
        for block in self.blocks:
            states = block(*self.argument(states))
        with contextlib.suppress(RuntimeError):
            self.only_one(states)
        return self.output(states[:, 0])


class OnlyOne(nn.Module):
    def forward(self, states):
        if len(states) != 2:
            raise RuntimeError("two rows, please")
        return states


def test_errors_inside_a_model_that_it_catches_change_nothing():
    torch.manual_seed(0)
    model = Failing(Fused, lambda states: [states])
    model.only_one = OnlyOne()
    model.double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_as_one_by_one(model, list(model.blocks), ids(2, 5), target=1, n_steps=3)
