"""The lowest layers that make a joint path rough: in decoders those that build an attention sink."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from captum._utils.typing import TargetType
from torch import Tensor, nn

from captum_attattr.attribution.self_attention import SelfAttentionAttribution


def rough_layers(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    additional_forward_args: Any = None,
    *,
    tolerance: float = 0.01,
    n_steps: int = 60,
) -> list[nn.Module]:
    """Find the lowest layers that keep the joint path from converging; the path over all other layers converges.

    The first layers of language models build an attention sink, and the output changes abruptly while their attention
    grows from zero. If they keep their own attention, a few evaluations suffice for the path of the other layers, whose
    attributions then add up to F(A) minus F without the attention of these other layers.

    Args:
        forward_func, inputs, target, additional_forward_args: As for :class:`SelfAttentionAttribution`.
        layers: Attention layers in the order in which they run, as :func:`attention_layers` gives them.
        tolerance: Relative error that the joint path must reach, for each example.
        n_steps: Maximum number of evaluations for each number of layers that is tried.

    Returns:
        The layers to leave out, from the lowest up: an empty list if the joint path of all layers converges, all of
        them if not even the path of the top layer alone does.

    Raises:
        ValueError, TypeError: The arguments do not fit.

    Example:
        >>> from captum_attattr import attention_layers, rough_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> ids = tokenizer("A warm, funny film.", return_tensors="pt")["input_ids"]
        >>> rough_layers(model, attention_layers(model), ids, target=1)
        []
    """
    for count in range(len(layers)):
        method = SelfAttentionAttribution(forward_func, list(layers[count:]), path="joint")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="n_steps=")
            method.attribute(
                inputs,
                target=target,
                additional_forward_args=additional_forward_args,
                tolerance=tolerance,
                n_steps=n_steps,
                reduce="sum",
            )
        reached = method.convergence
        if reached is not None and reached.converged is not None and bool(reached.converged.all()):
            return list(layers[:count])
    return list(layers)
