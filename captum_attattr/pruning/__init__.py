"""Pruning: cut heads out of a model, and save and load pruned models.

To switch heads off temporarily, see :func:`captum_attattr.mask_heads`.
"""

from captum_attattr.pruning.cutting import prune_heads
from captum_attattr.pruning.pruned_files import load_pruned, save_pruned

__all__ = ["load_pruned", "prune_heads", "save_pruned"]
