"""Padding is known from the mask alone: attributions of every other pair are those of the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from oracles import clean_attention, direct_attribution
from tiny_models import SMALL, Family, make
from tiny_seq2seq import CROSS
from torch import Tensor, nn

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.engine.quadrature import quadrature
from captum_attattr.faithfulness import EdgeRemoval

both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
IDS = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(1))
SHORT = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def assert_oracle(model: nn.Module, forward: Callable[[], Tensor], call, path: str, digits=1e-9, **options):
    """``call(method)`` of every layer is that of the direct computation of ``forward``; returns the attributions."""
    layers = attention_layers(model)
    nodes, weights = quadrature("gausslegendre", 5)
    ours = call(layers, path=path, n_steps=5, **options)
    groups = [list(range(len(layers)))] if path == "joint" else [[i] for i in range(len(layers))]
    for group in groups:
        theirs, _ = direct_attribution(model, forward, [layers[i] for i in group], nodes=nodes, weights=weights)
        for i, direct in zip(group, theirs, strict=True):
            assert direct.abs().max() > 1e-6, "a case in which attention does not matter proves nothing"
            assert (ours[i] - direct).abs().max() < digits * direct.abs().max(), f"layer {i}"
    return ours


def attribution(forward, inputs, *arguments):
    def call(layers, path, **options):
        method = SelfAttentionAttribution(forward, layers, path=path)
        return method.attribute(inputs, additional_forward_args=arguments, **options)

    return call


# Cross-attention


def last_token(model):
    def forward(ids, mask, decoder_ids, decoder_mask=None):
        output = model(ids, mask, decoder_input_ids=decoder_ids, decoder_attention_mask=decoder_mask, use_cache=False)
        last = -1 if decoder_mask is None else decoder_mask.sum(1) - 1
        return output.logits[range(len(ids)), last, 7]

    return forward


@both_paths
@pytest.mark.parametrize("family", CROSS)
def test_cross_attention_with_as_many_queries_as_keys(family, path):
    model = make(Family(family, CROSS[family]))
    forward, decoder_ids = last_token(model), IDS.flip(1)
    call = attribution(forward, IDS, SHORT, decoder_ids)
    attributions = assert_oracle(model, lambda: forward(IDS, SHORT, decoder_ids), call, path, 1e-6)
    crossing = [
        one for one in attributions if bool(one[1, :, 4:, :4].abs().max() > 1e-9) and not bool(one[1, :, :, 4:].any())
    ]
    assert crossing, "real decoder tokens, numbered as the padding of the source, look at its real tokens"


@both_paths
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_padded_tokens_of_the_decoder_carry_nothing(family, path):
    model = make(Family(family, CROSS[family]))
    forward, decoder_mask = last_token(model), SHORT.flip(0)
    layers = attention_layers(model)
    together = attribution(forward, IDS, SHORT, IDS.flip(1), decoder_mask)(layers, path)
    alone = attribution(forward, IDS[:1], SHORT[:1], IDS.flip(1)[:1, :4], decoder_mask[:1, :4])(layers, path)
    for one, other in zip(together, alone, strict=True):
        queries, keys = other.shape[2:]
        torch.testing.assert_close(one[:1, :, :queries, :keys], other, rtol=1e-6, atol=1e-9)
        assert not one[0, :, queries:].any()
        assert not one[0, :, :, keys:].any()


@both_paths
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_decoder_inputs_may_be_padded_on_either_side(family, side, path):
    model = make(Family(family, CROSS[family]))
    decoder_mask = SHORT if side == "right" else SHORT.flip(1)

    def forward(ids, mask, decoder_ids, decoder_mask):
        place = decoder_mask.sum(1) - 1 if side == "right" else -1
        options = {"decoder_input_ids": decoder_ids, "decoder_attention_mask": decoder_mask, "use_cache": False}
        return model(ids, mask, **options).logits[range(len(ids)), place, 7]

    given = (SHORT, IDS.flip(1), decoder_mask)
    attributions = assert_oracle(model, lambda: forward(IDS, *given), attribution(forward, IDS, *given), path, 1e-6)
    padded = decoder_mask[1] == 0
    decoder, crossing = (kind[-1] for kind in (attention_layers(model, kind=kind) for kind in ("decoder", "cross")))
    by_layer = dict(zip(attention_layers(model), attributions, strict=True))
    assert not by_layer[decoder][1][:, :, padded].any()
    assert not by_layer[decoder][1][:, padded].any()
    assert not by_layer[crossing][1][:, padded].any()


def test_edges_of_cross_attention_may_all_be_cut():
    """Those of real decoder tokens are, whatever number they have; in the encoder those of padding are not."""
    model = make(Family("bart", CROSS["bart"]))
    layers = attention_layers(model)
    crossing = layers[-1]
    for layer, counted in ((layers[0], SHORT[:, :, None] * SHORT[:, None]), (crossing, SHORT[:, None].expand(2, 6, 6))):
        removal = EdgeRemoval(last_token(model), layer, IDS, (SHORT, IDS.flip(1)))
        assert torch.equal(removal.removable.view(2, 4, 6, 6)[:, 0], counted.bool())


# Masks that forbid the diagonal


def bert(**settings):
    config = {**SMALL, "num_labels": 3, "pad_token_id": 0, **settings}
    return make(Family("bert", lambda: hf.BertForSequenceClassification(hf.BertConfig(**config))))


def allowed(forbidden: Callable[[Tensor], None]) -> Tensor:
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    forbidden(mask)
    return mask


def cls_itself(mask):
    mask[..., 0, 0] = False


def diagonal(mask):
    mask.diagonal(dim1=-2, dim2=-1).fill_(False)


def cls_as_a_key(mask):
    mask[..., 0] = False


def one_whole_row(mask):
    mask[1, :, 3] = False


@both_paths
@pytest.mark.parametrize("forbid", [cls_itself, diagonal, cls_as_a_key], ids=lambda f: f.__name__)
def test_a_mask_of_the_user_s_own(forbid, path):
    model, mask = bert(), allowed(forbid)
    additive = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
    forward = lambda ids, mask: model(ids, attention_mask=mask).logits[:, 1]
    for given in (mask, additive):
        attributions = assert_oracle(model, lambda: forward(IDS, additive), attribution(forward, IDS, given), path)
        assert attributions[-1][:, :, 0].abs().max() > 1e-3
        assert not any(one.masked_select(~mask).any() for one in attributions)


def test_a_query_that_may_look_at_nothing_stays_as_it_is():
    model, mask = bert(), allowed(one_whole_row)
    forward = lambda ids, mask: model(ids, attention_mask=mask).logits[:, 1]
    attributions = attribution(forward, IDS, mask)(attention_layers(model), "layerwise")
    assert not any(one[1, :, 3].any() for one in attributions)
    assert all(one[0, :, 3].any() for one in attributions[:-1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_joint_path_ends_at_the_model_where_a_query_may_look_at_nothing(attention):
    """Kernels differ in what they compute for such a query; an output that reads it is explained all the same."""
    model, mask = bert(), allowed(one_whole_row)
    model.set_attn_implementation(attention)
    forward = lambda ids, mask: model.bert(ids, attention_mask=mask).last_hidden_state[:, 3, 0]
    additive = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
    given = mask if attention == "sdpa" else additive
    method = SelfAttentionAttribution(forward, attention_layers(model), path="joint")
    _, delta = method.attribute(IDS, additional_forward_args=given, n_steps=200, return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-6


@both_paths
def test_doge_that_keeps_fewer_keys_than_there_are(path):
    settings = {**SMALL, "num_key_value_heads": 2, "keep_window_size": 3, "num_labels": 3, "pad_token_id": 0}
    model = make(Family("doge", lambda: hf.DogeForSequenceClassification(hf.DogeConfig(**settings))), attention="eager")
    forward = lambda ids: model(ids, use_cache=False).logits[:, 1]
    assert_oracle(model, lambda: forward(IDS), attribution(forward, IDS), path, 1e-6)


# What the output reads counts


@both_paths
def test_a_head_that_reads_a_padded_place(path):
    """As SigLIP reads its text at the last place: no token looks at it, and all of the output comes from there."""
    model = bert()
    forward = lambda ids, mask: model.classifier(model.bert(ids, mask).last_hidden_state[:, -1])[:, 1]
    attributions = assert_oracle(model, lambda: forward(IDS, SHORT), attribution(forward, IDS, SHORT), path)
    assert attributions[-1][1, :, -1].abs().max() > 1e-3
    assert not any(one[1, :, :, 4:].any() for one in attributions)


# "Never" in other words


@pytest.mark.parametrize("never", [-1e4, -1e9, float("-inf"), torch.finfo(torch.float32).min])
def test_every_way_to_write_never(never):
    """MarkupLM adds -10,000 to what is forbidden, EoMT -1e9."""
    model, forbidden = bert(), SHORT[:, None, None] == 0
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64).masked_fill(forbidden, never)
    forward = lambda ids, mask: model(ids, attention_mask=mask).logits
    layers = attention_layers(model)
    clean = clean_attention(model, lambda: forward(IDS, mask), layers)
    starts = [(a > 0).double() / (a > 0).sum(-1, keepdim=True) for a in clean]
    assert not any(a[1, :, :, 4:].any() for a in clean)
    ours = attribution(forward, IDS, mask)(layers, "layerwise", target=1, attention_baselines="uniform")
    for i, layer in enumerate(layers):
        (theirs,), _ = direct_attribution(model, lambda: forward(IDS, mask)[:, 1], [layer], [starts[i]])
        torch.testing.assert_close(ours[i], theirs, rtol=1e-9, atol=1e-12)
