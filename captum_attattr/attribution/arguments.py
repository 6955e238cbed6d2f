"""Checks of the arguments of :class:`SelfAttentionAttribution`, made before the model runs."""

from __future__ import annotations

from typing import Any

from torch import nn

from captum_attattr.attention import attention_layers, is_attention_layer


def check_layers(layer: Any) -> None:
    """Check that ``layer`` is an attention layer or a list of them."""
    layers = layer if isinstance(layer, (list, tuple)) else [layer]
    if not layers:
        raise ValueError("layer is an empty list: give at least one attention layer, as from attention_layers(model).")
    for module in layers:
        if not isinstance(module, nn.Module):
            raise TypeError(f"layer must be a module or a list of modules, got {type(module).__name__}.")
        if not is_attention_layer(module):
            inside = len(attention_layers(module))  # raises its own error where there is none
            raise ValueError(
                f"{type(module).__name__} is not an attention layer itself but holds {inside}: give "
                "attention_layers(model), or some of these layers."
            )


def check_batch_size(internal_batch_size: Any) -> None:
    """Check that ``internal_batch_size`` is a number of rows or None."""
    if internal_batch_size is not None and (not isinstance(internal_batch_size, int) or internal_batch_size < 1):
        raise ValueError(f"internal_batch_size must be a whole number of at least 1, got {internal_batch_size!r}.")


def check_tolerance(tolerance: Any, method: str) -> None:
    """Check that ``tolerance`` is between 0 and 1 or None, and that no other rule is given with it."""
    if tolerance is None:
        return
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a number between 0 and 1, such as 0.01, or None; got {tolerance!r}.")
    if method != "gausslegendre":
        raise ValueError(f"tolerance chooses the nodes itself: leave method={method!r} out, or tolerance.")
