"""The method: self-attention attribution, the output as a function of attention, and the layers that make a path rough.

Read ``self_attention`` first.
"""

from captum_attattr.attribution.attention_function import AttentionFunction
from captum_attattr.attribution.integrals import Integration, convergence_of, integrals_along
from captum_attattr.attribution.roughness import rough_layers, rough_places
from captum_attattr.attribution.self_attention import PathName, SelfAttentionAttribution

__all__ = [
    "AttentionFunction",
    "Integration",
    "PathName",
    "SelfAttentionAttribution",
    "convergence_of",
    "integrals_along",
    "rough_layers",
    "rough_places",
]
