"""Small random models of every family that can be pruned, as data."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf
from tiny_models import FAMILIES, SMALL, Family

from captum_attattr.pruning import prune_heads


def _build(config_class, model_class, **more):
    return lambda: model_class(config_class(**{**SMALL, "num_labels": 3, "pad_token_id": 0, **more}))


def _gpt2_classifier():
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "bos_token_id": 0}
    return hf.GPT2ForSequenceClassification(hf.GPT2Config(**sizes, eos_token_id=0, pad_token_id=0, num_labels=3))


def _deit():
    image = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    return hf.DeiTForImageClassification(hf.DeiTConfig(**image, image_size=12, patch_size=4, num_labels=3))


PRUNABLE = [family for family in FAMILIES if family.name != "modernbert"] + [
    Family("camembert", _build(hf.CamembertConfig, hf.CamembertForSequenceClassification, pad_token_id=1)),
    Family("xlm-roberta", _build(hf.XLMRobertaConfig, hf.XLMRobertaForSequenceClassification, pad_token_id=1)),
    Family("megatron-bert", _build(hf.MegatronBertConfig, hf.MegatronBertForSequenceClassification)),
    Family("rembert", _build(hf.RemBertConfig, hf.RemBertForSequenceClassification, input_embedding_size=16)),
    Family("roformer", _build(hf.RoFormerConfig, hf.RoFormerForSequenceClassification, embedding_size=32)),
    Family("gpt2 classifier", _gpt2_classifier, "decoder"),
    Family("qwen2", _build(hf.Qwen2Config, hf.Qwen2ForSequenceClassification, num_key_value_heads=2), "decoder", 1e-6),
    Family("deit", _deit, "image", 1e-6),
]
DEBERTA = [  # needs a head in each layer
    Family(
        f"deberta-v2, share_att_key={share}",
        _build(
            hf.DebertaV2Config, hf.DebertaV2ForSequenceClassification, share_att_key=share, relative_attention=True,
            pos_att_type=["c2p", "p2c"], position_buckets=4,
        ),
    )
    for share in (True, False)
]  # fmt: skip
BY_NAME = {family.name: family for family in PRUNABLE}
BERT = BY_NAME["bert"]
GROUPED = ("llama", "qwen2", "qwen3", "mistral")
HEADS = {0: [0, 1], 2: [2, 3]}  # whole groups, too
EMPTY = {0: [2, 3], 1: [0, 1, 2, 3]}
families = pytest.mark.parametrize("family", PRUNABLE, ids=lambda family: family.name)
some_families = pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama", "vit"])
some_heads = pytest.mark.parametrize("heads", [HEADS, EMPTY], ids=["some heads", "all of a layer"])
implementations = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def run(c):
    with torch.no_grad():
        return c.forward(c.inputs, c.mask)


def pruned(c, heads):
    """The case with a pruned copy of its model."""
    return replace(c, model=prune_heads(copy.deepcopy(c.model), heads))


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours)
