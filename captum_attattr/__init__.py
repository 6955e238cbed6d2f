"""Explain Transformers by their attention: self-attention attribution as a Captum method, and what it is good for."""

from captum_attattr.attention import UnsupportedModelError, attention_layers
from captum_attattr.attention_function import AttentionFunction
from captum_attattr.attribution import SelfAttentionAttribution

__all__ = [
    "AttentionFunction",
    "SelfAttentionAttribution",
    "UnsupportedModelError",
    "attention_layers",
]
