"""Attention layers that a pass finds: which, in which order, of which kind."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from plain_models import HEADS, PLAIN, Blocks, Projections, plain_inputs, plain_model
from tiny_models import SMALL
from tiny_seq2seq import CROSS, SEQ2SEQ

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers, mask_heads
from captum_attattr.attention import intercepted

IDS = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 12, "patch_size": 4}  # fmt: skip


def names(model, layers):
    by_module = {module: name for name, module in model.named_modules()}
    return [by_module[layer] for layer in layers]


def clip():
    return hf.CLIPModel(hf.CLIPConfig(text_config={**SMALL, "num_hidden_layers": 2}, vision_config=VISION)).eval()


def test_kinds_of_an_encoder_decoder():
    model = hf.BartModel(hf.BartConfig(**SEQ2SEQ)).eval()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
    kinds = {kind: names(model, attention_layers(model, inputs, kind=kind)) for kind in ("encoder", "decoder", "cross")}
    assert all(name.startswith("encoder.layers") for name in kinds["encoder"])
    assert all(name.startswith("decoder.layers") and name.endswith("self_attn") for name in kinds["decoder"])
    assert all(name.endswith("encoder_attn") for name in kinds["cross"])
    together = attention_layers(model, inputs)
    assert len(together) == sum(map(len, kinds.values())) == len(attention_layers(model))


@pytest.mark.parametrize("family", CROSS)
def test_kinds_of_transformers_models_need_no_inputs(family):
    model = CROSS[family]().eval()
    counts = [len(attention_layers(model, kind=kind)) for kind in ("encoder", "decoder", "cross")]
    assert sum(counts) == len(attention_layers(model))
    assert all(counts[1:])


def test_equal_lengths_do_not_hide_cross_attention():
    """What tells is whose keys they are, not how many."""
    model = plain_model("torch.nn.Transformer")
    ids = plain_inputs("torch.nn.Transformer")["input_ids"]
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    assert len(attention_layers(model, inputs, kind="cross")) == 2
    assert names(model, attention_layers(model, inputs, kind="cross"))[0].endswith("multihead_attn")


def test_layers_are_in_the_order_of_their_calls():
    model = Blocks(Projections(), Projections())
    first, second = (plain_model("own: einsum").attention[0] for _ in range(2))
    model.attention = torch.nn.ModuleList([second, first])
    model.forward = lambda ids: first(second(model.embeddings(ids)))
    swapped = Blocks(first, second)
    swapped.forward = lambda ids: first(second(swapped.embeddings(ids)))
    assert attention_layers(swapped) == [first, second]
    assert attention_layers(swapped, IDS) == [second, first]


def test_a_layer_that_runs_several_times_is_listed_for_each_call():
    model = hf.AlbertModel(hf.AlbertConfig(**SMALL)).eval()
    layers = attention_layers(model, IDS)
    assert layers == attention_layers(model) * 3
    attributions = SelfAttentionAttribution(lambda ids: model(ids).pooler_output, layers).attribute(IDS, target=0)
    assert len(attributions) == 3
    assert not torch.equal(attributions[0], attributions[1])


def test_layers_that_the_pass_does_not_reach_are_left_out():
    model = clip()
    text = attention_layers(model.text_model, IDS)
    assert text == attention_layers(model, kind="text_model")
    assert (len(attention_layers(model)), len(text)) == (4, 2)
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    both = {"input_ids": IDS, "pixel_values": images}
    assert attention_layers(model, both, kind="vision_model") == attention_layers(model, kind="vision_model")
    assert attention_layers(model, both, kind="decoder") == text


def test_a_layer_without_a_module_of_its_own():
    """The modules do not show it, a pass does; then it is known, and its heads can be masked."""
    name = "own: all layers in one forward"
    model, inputs = plain_model(name), plain_inputs(name)
    layers = attention_layers(model, *inputs.values())
    assert layers == [model, model]
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], layers)
    attributions, deltas = method.attribute(*inputs.values(), target=0, n_steps=64, return_convergence_delta=True)
    assert [one.shape for one in attributions] == [(2, HEADS, 7, 7)] * 2
    assert all(delta.abs().max() < 1e-3 for delta in deltas)
    with torch.no_grad(), mask_heads(model, {0: range(HEADS)}):
        assert torch.allclose(model(*inputs.values()), model.output(model.embeddings(*inputs.values())))


def test_the_number_of_heads_that_no_attribute_tells_is_known_after_a_pass():
    model = plain_model("own: einsum")
    for layer in model.attention:
        del layer.num_heads
    with pytest.raises(UnsupportedModelError, match=r"heads of a Einsum is not known.*attention_layers\(model, \*exam"):
        mask_heads(model, {0: [1]})
    attention_layers(model, IDS)
    clean = model(IDS)
    with mask_heads(model, {0: [1]}) as mask:
        assert mask.heads == {0: [1]}
        assert not torch.allclose(model(IDS), clean)


@pytest.mark.parametrize("name", PLAIN)
def test_the_pass_changes_nothing(name):
    model, inputs = plain_model(name), plain_inputs(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    clean, attributes = model(**inputs), {module: set(vars(module)) for module in model.modules()}
    found = attention_layers(model, inputs)
    assert torch.equal(model(**inputs), clean)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {module: set(vars(module)) for module in model.modules()} == attributes
    calls = []
    intercepted(set(found), lambda call: calls.append(call.module) or call.proceed(), lambda: model(**inputs))
    assert calls == found


class Routed(Blocks):
    """A router's softmax is no attention: it multiplies no values."""

    def forward(self, input_ids):
        x = super().forward(input_ids)
        return x * x.softmax(-1)


class TopK(Projections):
    """Attention to the strongest keys only: parts of a softmax."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights, places = (query @ key.transpose(2, 3)).softmax(-1).topk(2, -1)
        chosen = (
            value.unsqueeze(2).expand(-1, -1, x.shape[1], -1, -1).gather(3, places[..., None].expand(-1, -1, -1, -1, 8))
        )
        return self.out((weights.unsqueeze(-2) @ chosen).squeeze(-2).transpose(1, 2).flatten(2))


class Halves(Projections):
    """Each half of the keys in a product of its own."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        context = weights[..., :3] @ value[:, :, :3] + weights[..., 3:] @ value[:, :, 3:]
        return self.out(context.transpose(1, 2).flatten(2))


class Received(Projections):
    """P^T times values sums over queries: what a key's token gives, no attention."""

    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        return self.out((weights.transpose(2, 3) @ value).transpose(1, 2).flatten(2))


class QueriesBeforeHeads(Projections):
    """One key and value for all heads, in the order (batch, query, head, key): the axes cannot be told apart."""

    def forward(self, x):
        query, key, value = self.heads(x)
        weights = torch.einsum("bqhd,bkd->bqhk", query, key[:, :, 0]).softmax(-1)
        return self.out((weights @ value[:, None, :, 0]).flatten(2))


class Weigh(Projections):
    def forward(self, x):
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        return (query @ key.mT).softmax(-1), value


class Take(torch.nn.Module):
    def forward(self, both):
        weights, value = both
        return (weights @ value).transpose(1, 2).flatten(2)


def test_a_layer_may_be_spread_over_modules():
    """Then it is what holds both, be it a container of torch's."""
    model = torch.nn.Sequential(torch.nn.Embedding(99, 32), torch.nn.Sequential(Weigh(), Take()))
    assert attention_layers(model, IDS) == [model]
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], model)
    _, delta = method.attribute(IDS, target=1, n_steps=8, return_convergence_delta=True)
    assert delta.abs().max() < 1e-4


def test_a_softmax_that_is_no_attention_is_left_alone():
    model = Routed(PLAIN["own: einsum"]().attention[0]).eval()
    assert attention_layers(model, IDS) == [model.attention[0]]


@pytest.mark.parametrize("kind", [TopK, Halves, Received, QueriesBeforeHeads])
def test_attention_that_cannot_be_followed_is_refused_by_name(kind):
    model = Blocks(kind()).eval()
    with pytest.raises(UnsupportedModelError, match=kind.__name__):
        attention_layers(model, IDS)
    with pytest.raises(UnsupportedModelError, match=f"{kind.__name__}"):
        SelfAttentionAttribution(lambda ids: model(ids)[:, 0], model.attention[0]).attribute(IDS, target=0)


def test_what_is_wrong_is_said():
    model = clip()
    with pytest.raises(
        ValueError, match=r"kind must be one of encoder, decoder, cross, or the path.*text_model.*'vison'"
    ):
        attention_layers(model, kind="vison")
    with pytest.raises(ValueError, match=r"known from a pass: give example inputs"):
        attention_layers(plain_model("own: SDPA"), kind="encoder")
    with pytest.raises(UnsupportedModelError, match=r"Linear has no attention layer"):
        attention_layers(torch.nn.Linear(2, 2), torch.zeros(1, 2))
