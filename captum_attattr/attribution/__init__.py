"""The method: self-attention attribution, the function from attention to output, and which layers make a path rough."""

from captum_attattr.attribution.attention_function import AttentionFunction
from captum_attattr.attribution.roughness import rough_layers
from captum_attattr.attribution.self_attention import PathName, SelfAttentionAttribution

__all__ = ["AttentionFunction", "PathName", "SelfAttentionAttribution", "rough_layers"]
