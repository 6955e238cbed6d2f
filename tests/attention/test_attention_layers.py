"""Attention layers that are found, those left out with a warning, and those that a forward function reaches."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers as hf
from tiny_models import FAMILIES, SMALL
from tiny_seq2seq import CROSS, SEQ2SEQ

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 12, "patch_size": 4}  # fmt: skip
TEXT = {**SMALL, "num_hidden_layers": 2}


def mixed():
    model = torch.nn.Module()
    model.bert, model.yoso = hf.BertModel(hf.BertConfig(**TEXT)), hf.YosoModel(hf.YosoConfig(**TEXT))
    return model


def minimax():
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "num_key_value_heads": 2}
    return hf.MiniMaxModel(hf.MiniMaxConfig(**TEXT, **experts, layer_types=["full_attention", "linear_attention"]))


@pytest.mark.parametrize(
    ("build", "found", "left_out"),
    [
        (mixed, 2, r"2 YosoSelfAttention \(yoso.encoder.layer.0.attention.self, yoso.encoder.layer.1.attention.self\)"),
        (minimax, 1, r"1 MiniMaxLightningAttention \(layers.1.self_attn\)"),
    ],
)
def test_attention_that_is_left_out_is_named(build, found, left_out):
    with pytest.warns(UserWarning, match=f"^{found} attention layers of .* Left out.* cannot be followed: {left_out}"):
        assert len(attention_layers(build())) == found


def test_a_model_whose_attention_cannot_be_followed_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"YosoModel has no attention layer that.*2 YosoSelfAttention"):
        attention_layers(hf.YosoModel(hf.YosoConfig(**TEXT)))


def git():
    return hf.GitModel(hf.GitConfig(vision_config=VISION, **TEXT))


def clap():
    audio = {"num_mel_bins": 8, "spec_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "hidden_size": 16,
             "num_hidden_layers": 2, "num_attention_heads": [2, 2], "window_size": 2, "patch_size": 2,
             "patch_stride": [2, 2]}  # fmt: skip
    return hf.ClapModel(hf.ClapConfig(text_config=TEXT, audio_config=audio))


def siglip():
    return hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION))


CLIP = {"text_config": TEXT, "vision_config": VISION}
WHISPER = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 8, "bos_token_id": 1}
DECODER = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
WHOLE = {
    **{family.name: (family.build, 3) for family in FAMILIES},
    **{name: (build, 5) for name, build in CROSS.items()},
    "albert": (lambda: hf.AlbertModel(hf.AlbertConfig(**SMALL)), 1),
    "gemma": (lambda: hf.GemmaModel(hf.GemmaConfig(**DECODER, head_dim=8)), 3),
    "gemma3": (lambda: hf.Gemma3TextModel(hf.Gemma3TextConfig(**DECODER, head_dim=8)), 3),
    "clip": (lambda: hf.CLIPModel(hf.CLIPConfig(**CLIP)), 4),
    "whisper": (lambda: hf.WhisperModel(hf.WhisperConfig(**WHISPER)), 5),
    "git": (git, 4),
    "clap": (clap, 4),
    "siglip": (siglip, 3),
    "swin": (lambda: hf.SwinModel(hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1],
                                                num_heads=[2, 2], window_size=2)), 2),
}  # fmt: skip


@pytest.mark.parametrize("family", WHOLE)
def test_no_false_alarm(family):
    build, found = WHOLE[family]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(attention_layers(build())) == found


def test_layers_that_the_forward_function_does_not_reach_are_numbered():
    model = hf.CLIPModel(hf.CLIPConfig(**CLIP)).eval()
    layers = attention_layers(model)
    forward = lambda pixels: model.get_image_features(pixels).pooler_output
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"reached 2 of the 4 given layers.* 0, 1 \(CLIPAttention\).*\[2, 3\]"):
        SelfAttentionAttribution(forward, layers).attribute(images, target=0)
    assert len(SelfAttentionAttribution(forward, layers[2:]).attribute(images, target=0)) == 2
