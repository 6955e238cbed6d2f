"""Small random models of the library's model types, made from their default configurations.

A number of a configuration whose name says what it counts (layers, heads, widths, experts) is made small, in all of its
parts. Where such numbers depend on each other, a type has settings of its own.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

_SMALL = {
    99: "vocab_size",
    64: "max_position_embeddings n_positions n_ctx max_seq_len max_source_positions max_target_positions",
    48: "intermediate_size ffn_dim d_ff d_inner n_inner encoder_ffn_dim decoder_ffn_dim mlp_dim ffn_hidden_size "
    "moe_intermediate_size shared_expert_intermediate_size dff",
    32: "hidden_size d_model n_embd dim emb_dim embed_dim embedding_size word_embed_proj_dim encoder_hidden_size "
    "decoder_hidden_size projection_dim hidden_dim input_embedding_size output_embedding_size text_embed_dim "
    "out_hidden_size output_hidden_size cross_hidden_size",
    16: "image_size",
    8: "head_dim d_head d_kv attention_head_size kv_channels num_mel_bins q_lora_rank kv_lora_rank qk_nope_head_dim "
    "qk_rope_head_dim v_head_dim index_head_dim",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads heads "
    "num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts patch_size",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers depth num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k n_group topk_group "
    "index_n_heads index_topk",
}
_SIZES = {name: size for size, names in _SMALL.items() for name in names.split()}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1, "sep_token_id": 1,
           "cls_token_id": 1}  # fmt: skip
_WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
_ROTARY = {"rotary_dim": 4}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_OF_A_TYPE: dict[str, dict[str, object]] = {
    "audio-spectrogram-transformer": {"max_length": 32, "patch_size": 8, "frequency_stride": 4, "time_stride": 4},
    "codegen": _ROTARY,
    **{name: {"num_key_value_heads": 4} for name in ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite")},
    "donut-swin": _WINDOWS,
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 3},
    "gptj": _ROTARY,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "visual_embed": False},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "maskformer-swin": _WINDOWS,
    "perceiver": {"num_latents": 5, "d_latents": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
                  "num_cross_attention_heads": 2, "num_self_attention_heads": 2},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _HYBRID),
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "roc_bert": {"pronunciation_vocab_size": 99, "shape_vocab_size": 99, "pronunciation_embed_dim": 8,
                 "shape_embed_dim": 8},
    "speech_to_text": {"input_feat_per_channel": 8, "conv_channels": 16},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "timesformer": {"num_frames": 2},
    "videomae": {"num_frames": 2, "tubelet_size": 2},
    "vivit": {"num_frames": 2, "tubelet_size": [2, 4, 4]},
}  # fmt: skip
_LARGEST = 5_000_000
"""Parameters of a model that counts as small."""


class NotSmallError(Exception):
    """The default configuration of this type cannot be made small in this way."""


def model_types() -> list[str]:
    """All model types of the library that have a base model."""
    return [name for name, config in CONFIG_MAPPING.items() if config in MODEL_MAPPING]


def small_model(model_type: str) -> nn.Module:
    """Build the base model of a type with few parameters, in evaluation mode."""
    try:
        config_class = CONFIG_MAPPING[model_type]
        model_class = MODEL_MAPPING[config_class]
        model_class = model_class[0] if isinstance(model_class, (list, tuple)) else model_class
        config = config_class(**{**_small(config_class()), **_OF_A_TYPE.get(model_type, {})})
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in model_class(config).parameters())
        if size > _LARGEST:
            raise NotSmallError(f"{size} parameters")
        torch.manual_seed(0)
        model = model_class(config).eval()
    except Exception as error:  # a family may require anything of its numbers
        raise NotSmallError(f"{type(error).__name__}: {error}") from error
    model.config.use_cache = False
    if getattr(model, "_can_set_experts_implementation", lambda: False)():
        model.set_experts_implementation("eager")  # others do not run in float64
    return model


def _small(config: PreTrainedConfig) -> dict[str, object]:
    settings: dict[str, object] = {}
    for name, value in {**config.to_dict(), **vars(config)}.items():
        size = _SIZES.get(name)
        if isinstance(value, PreTrainedConfig):
            settings[name] = _small(value)
        elif size is not None and type(value) is int:
            settings[name] = min(size, value)
        elif size is not None and isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
            settings[name] = [min(size, one) for one in value]
        elif name in _TOKENS and type(value) is int and value >= _SIZES["vocab_size"]:
            settings[name] = _TOKENS[name]
    return settings


def small_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs for two examples, by the names of the model's arguments."""
    names = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (2, 7), generator=generator)
    ids[:, 3], ids[:, 4] = 95, 1  # some read the place of the largest number, or of the end's
    first, config = model.main_input_name, model.config
    vision = getattr(config, "vision_config", config)
    inputs: dict[str, Tensor] = {}
    if first == "input_ids":
        inputs["input_ids"] = ids
    if "pixel_values" in names and getattr(config, "visual_embed", True):
        size = getattr(config, "image_size", None) or getattr(vision, "image_size", 16)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(config, "num_channels", None) or getattr(vision, "num_channels", 3)
        frames = [config.num_frames] if hasattr(config, "num_frames") else []
        inputs["pixel_values"] = torch.randn(2, *frames, channels, height, width, generator=generator)
    if first == "input_features":
        by_time = "speech_to_text" in config.model_type
        inputs["input_features"] = torch.randn(2, *((16, 8) if by_time else (8, 128)), generator=generator)
    if first == "input_values":
        spectrogram = (config.max_length, config.num_mel_bins) if hasattr(config, "frequency_stride") else (2000,)
        inputs["input_values"] = torch.randn(2, *spectrogram, generator=generator)
    if first == "inputs":
        inputs["inputs"] = torch.randn(2, 7, config.d_model, generator=generator)
    if "bbox" in names:
        inputs["bbox"] = torch.zeros(2, 7, 8 if config.model_type == "bros" else 4, dtype=torch.long)
    if "decoder_input_ids" in names:
        inputs["decoder_input_ids"] = ids[:, :5]
    return inputs or {first: ids}
