"""Attention that is seen in part only, or used in two ways, is refused: never a part of the truth."""

from __future__ import annotations

import pytest
import torch
from plain_models import HEADS, WIDTH, BatchFirst, Blocks, Projections, plain_inputs
from torch import nn

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers, mask_heads


class Shaw(Projections):
    """Relative positions are added to the values: the matrix meets two tensors."""

    def __init__(self):
        super().__init__()
        self.relative = nn.Parameter(torch.randn(7, 7, 8))

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        context = weights @ value + torch.einsum("bhqk,qkd->bhqd", weights, self.relative)
        return self.out(context.transpose(1, 2).flatten(2))


class Gated(Projections):
    """How sure the attention is scales the output."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        context = (weights @ value) * weights.amax(-1, keepdim=True)
        return self.out(context.transpose(1, 2).flatten(2))


class Thinned(Projections):
    """The matrix is changed after it was used."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        context = weights @ value
        with torch.no_grad():
            weights.masked_fill_(weights < 0.2, 0)
        return self.out(context.transpose(1, 2).flatten(2))


class TurnedInPlace(Projections):
    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1).detach()
        return self.out((weights.transpose_(2, 3) @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Shaw, "Shaw .* used in another way besides"),
        (Gated, "Gated .* used in another way besides"),
        (Thinned, "writes into tensors that the attention of Thinned"),
        (TurnedInPlace, "TurnedInPlace .* not multiplied with values"),
    ],
)
def test_what_would_be_a_part_of_the_truth_is_refused(kind, why):
    torch.manual_seed(0)
    model = Blocks(kind()).eval()
    ids = plain_inputs("own: SDPA")["input_ids"]
    with pytest.raises(UnsupportedModelError, match=why):
        SelfAttentionAttribution(lambda ids: model(ids)[:, 0], model.attention[0]).attribute(ids, target=0)


@pytest.mark.parametrize("kind", [Shaw, Gated])
def test_a_pass_refuses_it_as_well(kind):
    model = Blocks(kind()).eval()
    with pytest.raises(UnsupportedModelError, match=f"no attention layer that can be followed.*{kind.__name__}"):
        attention_layers(model, plain_inputs("own: SDPA")["input_ids"])


def test_weights_that_a_layer_returns_are_not_used_beside_its_context():
    """As pointer networks use them: the path would scale one use and not the other."""

    class Pointer(BatchFirst):
        def attend(self, attention, x):
            context, weights = attention(x, x, x)
            return context + weights @ x

    torch.manual_seed(0)
    model = Pointer(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)).eval()
    ids = plain_inputs("own: SDPA")["input_ids"]
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], attention_layers(model))
    with pytest.raises(ValueError, match="uses attention weights that a layer returns beside its context"):
        method.attribute(ids, target=0)


class Pooled(nn.Module):
    """One matrix for each example, in a layer that speaks of several heads."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.weigh = 2, nn.Linear(WIDTH, 1)

    def forward(self, x):
        return x + self.weigh(x).transpose(1, 2).softmax(-1) @ x


class OtherAxis(Projections):
    """A softmax by code that is not followed."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).exp()
        return self.out((weights / weights.sum(-1, keepdim=True) @ value).transpose(1, 2).flatten(2)).softmax(1)


@pytest.mark.parametrize(("kind", "why"), [(Pooled, "computes 1 heads where 2"), (OtherAxis, "mask has no effect")])
def test_masks_of_what_is_not_seen_are_refused(kind, why):
    model = Blocks(kind()).eval()
    with mask_heads(model, {0: [1]}), pytest.raises(UnsupportedModelError, match=why):
        model(plain_inputs("own: SDPA")["input_ids"])
