"""The seam for other backends: attention of a user's own, by one file, is explained as the direct computation does."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from agreement import assert_agree
from torch import nn

from captum_attattr import SelfAttentionAttribution, attention_layers, mask_heads
from captum_attattr.attention import AttentionCall, Backend, backends
from captum_attattr.attention.call import Sizes

WATCHED: ContextVar[tuple] = ContextVar("watched", default=())


class OwnAttention(nn.Module):
    """Attention by code that no library knows, with two heads."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        self.projections, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, states):
        query, key, value = self.projections(states).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        call = OwnCall(module=self, handlers=WATCHED.get(), weights=weights, value=value)
        return states + self.out(backends.BACKENDS[0].handled(call)[0].flatten(2))


@dataclass(frozen=True, kw_only=True)
class OwnCall(AttentionCall):
    weights: torch.Tensor
    value: torch.Tensor
    dropout = 0.0
    way = "its own code"

    @property
    def sizes(self):
        return Sizes(*self.weights.shape)

    @property
    def like(self):
        return self.value

    def narrowed(self, queries):
        return replace(self, weights=self.weights[:, :, queries])

    def first_keys(self, count):
        return replace(self, weights=self.weights[..., :count], value=self.value[:, :, :count])

    def with_values_of(self, other):
        return replace(self, value=other.value)

    def select(self, examples):
        return replace(self, weights=self.weights[examples], value=self.value[examples])

    def _computed(self):
        return (self.weights @ self.value).transpose(1, 2), None

    def _matrices(self):
        return self.weights

    def _values(self):
        return self.value

    def _allowed(self):
        return torch.ones_like(self.weights[:, :1], dtype=torch.bool)


class OwnBackend(Backend):
    def holds(self, module):
        return isinstance(module, OwnAttention)

    def refuse_out_of_reach(self, layer):
        pass

    def watching(self, layers, handler, function):
        def watched():
            WATCHED.set((handler, *WATCHED.get()))
            return function()

        return copy_context().run(watched)

    def masked(self, model, layers, mask):
        pass

    def masked_no_more(self, mask):
        pass


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(OwnAttention() for _ in range(3))

    def forward(self, ids):
        states = self.embed(ids)
        for layer in self.layers:
            states = layer(states).tanh()
        return self.head(states[:, 0])


def direct(model, ids, place, target, nodes=64):
    """The equation itself: Gauss-Legendre over the attention of one layer, by hand."""
    points, weights = (torch.from_numpy(one) for one in np.polynomial.legendre.leggauss(nodes))
    total, attention = 0, None
    for alpha, weight in zip((points + 1) / 2, weights / 2, strict=True):
        states = model.embed(ids)
        for number, layer in enumerate(model.layers):
            query, key, value = layer.projections(states).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            matrix = (query @ key.transpose(-1, -2)).softmax(-1)
            if number == place:
                attention = matrix.detach()
                matrix = scaled = (alpha * attention).requires_grad_()
            states = (states + layer.out((matrix @ value).transpose(1, 2).flatten(2))).tanh()
        (gradient,) = torch.autograd.grad(model.head(states[:, 0])[:, target].sum(), scaled)
        total = total + weight * gradient
    return attention * total


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", (OwnBackend(), *backends.BACKENDS))
    torch.manual_seed(0)
    return Model().double().eval()


def test_attention_of_ones_own_is_explained_as_the_equation_says(model):
    ids = torch.randint(0, 20, (2, 5))
    layers = attention_layers(model)
    assert layers == list(model.layers)
    found, delta = SelfAttentionAttribution(model, layers).attribute(
        ids, target=1, n_steps=64, return_convergence_delta=True
    )
    for place, attributions in enumerate(found):
        assert_agree(attributions, direct(model, ids, place, 1))
    assert max(float(one.abs().max()) for one in delta) < 1e-10
    joint = SelfAttentionAttribution(model, layers, path="joint")
    joint.attribute(ids, target=1, tolerance=1e-3)
    assert bool(joint.convergence.converged.all())


def test_its_heads_are_masked(model):
    ids = torch.randint(0, 20, (2, 5))
    clean = model(ids)
    with mask_heads(model, {0: [1]}):
        (first, *_) = SelfAttentionAttribution(model, attention_layers(model)).attribute(ids, target=1, n_steps=2)
        assert not torch.allclose(model(ids), clean)
    assert torch.equal(first[:, 1], torch.zeros_like(first[:, 1]))
    assert float(first[:, 0].abs().max()) > 0
    assert torch.equal(model(ids), clean)


def test_its_kind_is_found_by_a_pass(model):
    ids = torch.randint(0, 20, (2, 5))
    assert attention_layers(model, ids, kind="encoder") == list(model.layers)
    assert attention_layers(model, ids, kind="cross") == []


def test_without_its_backend_torchs_does_the_same(model, monkeypatch):
    ids = torch.randint(0, 20, (2, 5))
    of_its_own = SelfAttentionAttribution(model, attention_layers(model)).attribute(ids, target=1)
    monkeypatch.setattr(backends, "BACKENDS", backends.BACKENDS[1:])
    by_torch = SelfAttentionAttribution(model, attention_layers(model)).attribute(ids, target=1)
    for one, other in zip(by_torch, of_its_own, strict=True):
        assert_agree(one, other)
