"""Heads cut out of a model for good, and pruned models in folders.

To switch heads off for a while, see :func:`captum_attattr.mask_heads`.
"""

from captum_attattr.pruning.cutting import prune_heads
from captum_attattr.pruning.pruned_files import load_pruned, save_pruned

__all__ = ["load_pruned", "prune_heads", "save_pruned"]
