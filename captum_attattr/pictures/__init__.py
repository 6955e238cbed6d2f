"""Pictures by matplotlib and Captum's visualizers: maps of heads, maps of token pairs, coloured tokens."""

from captum_attattr.pictures.explanations import visualize_explanation
from captum_attattr.pictures.head_map import visualize_head_importance
from captum_attattr.pictures.tokens import token_pair_result, token_records, visualize_token_pairs, visualize_tokens

__all__ = [
    "token_pair_result",
    "token_records",
    "visualize_explanation",
    "visualize_head_importance",
    "visualize_token_pairs",
    "visualize_tokens",
]
