"""Explain Transformers by their attention: self-attention attribution as a Captum method, and what it is good for."""

from captum_attattr.aggregation import head_scores, layer_scores, pair_scores, token_scores
from captum_attattr.attention import UnsupportedModelError, attention_layers
from captum_attattr.attention_function import AttentionFunction
from captum_attattr.attribution import SelfAttentionAttribution
from captum_attattr.explaining import explain
from captum_attattr.explanation import Explanation
from captum_attattr.visualization import visualize_explanation

__all__ = [
    "AttentionFunction",
    "Explanation",
    "SelfAttentionAttribution",
    "UnsupportedModelError",
    "attention_layers",
    "explain",
    "head_scores",
    "layer_scores",
    "pair_scores",
    "token_scores",
    "visualize_explanation",
]
