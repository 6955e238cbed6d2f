"""Attribution trees: how information flows from token to token, layer by layer, to the token that the output reads."""

from captum_attattr.tree.attribution_tree import AttributionTree

__all__ = ["AttributionTree"]
