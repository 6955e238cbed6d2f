"""Explain Transformers by their attention: self-attention attribution as a Captum method, and what it is good for."""

from captum_attattr.aggregation import head_scores, layer_scores, pair_scores, token_scores
from captum_attattr.attention import UnsupportedModelError, attention_layers
from captum_attattr.attention_function import AttentionFunction
from captum_attattr.attribution import SelfAttentionAttribution
from captum_attattr.explaining import explain
from captum_attattr.explanation import Explanation
from captum_attattr.faithfulness import comprehensiveness, deletion_curve, sufficiency
from captum_attattr.head_map import visualize_head_importance
from captum_attattr.importance import HeadImportance
from captum_attattr.masking import mask_heads, original_heads, remaining_heads
from captum_attattr.pruning import prune_heads
from captum_attattr.pruning_files import load_pruned, save_pruned
from captum_attattr.ranking import Importance
from captum_attattr.reductions import TopPairs
from captum_attattr.report import Report
from captum_attattr.roughness import rough_layers
from captum_attattr.token_visualization import token_pair_result, token_records, visualize_token_pairs, visualize_tokens
from captum_attattr.tree import AttributionTree
from captum_attattr.triggers import apply_trigger, extract_triggers
from captum_attattr.visualization import visualize_explanation

__all__ = [
    "AttentionFunction",
    "AttributionTree",
    "Explanation",
    "HeadImportance",
    "Importance",
    "Report",
    "SelfAttentionAttribution",
    "TopPairs",
    "UnsupportedModelError",
    "apply_trigger",
    "attention_layers",
    "comprehensiveness",
    "deletion_curve",
    "explain",
    "extract_triggers",
    "head_scores",
    "layer_scores",
    "load_pruned",
    "mask_heads",
    "original_heads",
    "pair_scores",
    "prune_heads",
    "remaining_heads",
    "rough_layers",
    "save_pruned",
    "sufficiency",
    "token_pair_result",
    "token_records",
    "token_scores",
    "visualize_explanation",
    "visualize_head_importance",
    "visualize_token_pairs",
    "visualize_tokens",
]
