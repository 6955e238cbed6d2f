"""A model's attention: find its layers, watch them, replace their contexts, switch heads off.

``backend`` says what is asked of one way in which models compute attention; each has a file of its own.
"""

from captum_attattr.attention.backend import Backend
from captum_attattr.attention.backends import intercepted, refuse_out_of_reach
from captum_attattr.attention.call import AttentionCall, Handler, Result, UnsupportedModelError
from captum_attattr.attention.finding import attention_layers, check_layers
from captum_attattr.attention.head_numbers import (
    HeadChoice,
    HeadNumbers,
    chosen_heads,
    original_heads,
    remaining_heads,
)
from captum_attattr.attention.masking import HeadMask, mask_heads

__all__ = [
    "AttentionCall",
    "Backend",
    "Handler",
    "HeadChoice",
    "HeadMask",
    "HeadNumbers",
    "Result",
    "UnsupportedModelError",
    "attention_layers",
    "check_layers",
    "chosen_heads",
    "intercepted",
    "mask_heads",
    "original_heads",
    "refuse_out_of_reach",
    "remaining_heads",
]
