"""Explain Transformers by their attention: self-attention attribution as a Captum method, and its applications."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_attattr.aggregation import Reduction, TopPairs, head_scores, layer_scores, pair_scores, token_scores
    from captum_attattr.attention import (
        UnsupportedModelError,
        attention_layers,
        mask_heads,
        original_heads,
        remaining_heads,
    )
    from captum_attattr.attribution import AttentionFunction, SelfAttentionAttribution, rough_layers
    from captum_attattr.faithfulness import comprehensiveness, deletion_curve, sufficiency
    from captum_attattr.heads import HeadImportance, Importance
    from captum_attattr.pictures import (
        token_pair_result,
        token_records,
        visualize_explanation,
        visualize_head_importance,
        visualize_token_pairs,
        visualize_tokens,
    )
    from captum_attattr.pruning import load_pruned, prune_heads, save_pruned
    from captum_attattr.report import Report
    from captum_attattr.text import Explanation, explain
    from captum_attattr.tree import AttributionTree
    from captum_attattr.triggers import apply_trigger, extract_triggers

__all__ = [
    "AttentionFunction",
    "AttributionTree",
    "Explanation",
    "HeadImportance",
    "Importance",
    "Reduction",
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

_PACKAGES = (
    "aggregation",
    "attention",
    "attribution",
    "demo",
    "text",
    "pruning",
    "heads",
    "faithfulness",
    "pictures",
    "tree",
    "triggers",
    "report",
)

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        """Import the packages when one of their names is first used (PEP 562): torch and transformers take seconds."""
        if name in _PACKAGES:
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = (import_module(f"{__name__}.{package}") for package in _PACKAGES)
        value = globals()[name] = next(vars(module)[name] for module in modules if name in vars(module))
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PACKAGES})
