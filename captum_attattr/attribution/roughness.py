"""The lowest layers that make a joint path rough: in decoders those that build an attention sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from captum._utils.typing import TargetType
from torch import Tensor, nn

from captum_attattr.attention import check_layers
from captum_attattr.attribution.integrals import Integration, integrals_along
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.joint import Joint
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.reductions import Keep
from captum_attattr.engine.replay import Recording


@with_gradients(True)
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
        layers: Attention layers, in any order.
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
    if not layers:
        return []
    check_layers(list(layers))
    integration = Integration.from_arguments(tolerance, n_steps, "gausslegendre")
    recording = Recording(Forward(forward_func, inputs, additional_forward_args), Listed(layers))
    paths = [LayerPath.from_state(state, None) for state in recording.states]
    return [layers[place] for place in rough_places(recording, paths, target, integration)]


def rough_places(
    recording: Recording, paths: Sequence[LayerPath], target: TargetType, integration: Integration
) -> list[int]:
    """Find the lowest layers that keep the joint path from converging: their places in ``paths``, from the lowest up.

    These are all places if none of the paths converges.
    """
    order = sorted(range(len(paths)), key=lambda place: paths[place].state.index)
    for count in range(len(paths)):
        others = [paths[place] for place in sorted(order[count:])]
        found = integrals_along(Joint(), recording, others, target, integration, Keep((), True))
        if all(one.converged is not None and bool(one.converged.all()) for one in found):
            return order[:count]
    return order
