"""Adapters to a model's attention: find its layers, watch them, replace their contexts, switch heads off."""

from captum_attattr.attention.call import AttentionCall, Handler, Result, UnsupportedModelError
from captum_attattr.attention.head_numbers import (
    HeadChoice,
    HeadNumbers,
    chosen_heads,
    original_heads,
    remaining_heads,
)
from captum_attattr.attention.masking import HeadMask, mask_heads
from captum_attattr.attention.transformers_interface import (
    attention_layers,
    intercepted,
    is_attention_layer,
    refuse_out_of_reach,
)

__all__ = [
    "AttentionCall",
    "Handler",
    "HeadChoice",
    "HeadMask",
    "HeadNumbers",
    "Result",
    "UnsupportedModelError",
    "attention_layers",
    "chosen_heads",
    "intercepted",
    "is_attention_layer",
    "mask_heads",
    "original_heads",
    "refuse_out_of_reach",
    "remaining_heads",
]
