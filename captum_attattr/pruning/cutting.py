"""Cutting heads out of a model: smaller projections, fewer parameters, less time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from captum_attattr.attention import HeadChoice, HeadNumbers, attention_layers, chosen_heads
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.pruning.layouts import Change, Projections

RECORD = "captum_attattr_pruned_heads"
"""The entry of a model's configuration for the pruned heads, {layer: [heads]} with layer numbers as strings."""


def prune_heads(model: PreTrainedModel, heads: HeadChoice) -> PreTrainedModel:
    """Cut heads out of a model: their rows of the query, key and value projections, and their columns of the output's.

    The output is that of the model with these heads masked (:func:`mask_heads`), up to rounding. A layer may lose all
    its heads: then only the output projection's bias remains of its attention. The remaining heads keep their numbers,
    for further pruning, masking and :func:`remaining_heads`; the model's configuration lists the pruned heads as
    ``captum_attattr_pruned_heads``.

    BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, DeBERTa (v2 and v3, which need a head in each layer),
    Megatron-BERT, RemBERT, RoFormer, GPT-2, Llama, Mistral, Qwen2, Qwen3, ViT and DeiT can be pruned. Heads that share
    keys and values (in Llama and similar models) can only be cut together, all heads of a group or none.

    Args:
        model: A model of transformers. It is changed in place; use ``copy.deepcopy`` first to keep the original. Make
            optimizers afterwards, as the smaller weights are new parameters without a gradient.
        heads: As for :func:`mask_heads`, in the numbering of the unpruned model. Heads that are pruned already may be
            given again.

    Returns:
        The model itself.

    Raises:
        TypeError: ``heads`` has another form, or ``model`` is no model of transformers.
        ValueError: A layer or head does not exist or is given twice, only a part of a group is given, or a layer would
            lose all its heads whose code does not run without any.
        UnsupportedModelError: The model's family cannot be pruned, or its weights are shared or quantised or have
            adapters.
        In all these cases the model is unchanged.

    Example:
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.pruning import prune_heads
        >>> model, tokenizer = load_demo()
        >>> model.num_parameters()
        14578562
        >>> prune_heads(model, {0: range(6), 5: [0, 2, 4]}).num_parameters()
        14135330
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"prune_heads needs a model of transformers, got {type(model).__name__}.")
    layers = attention_layers(model)
    numbers = [HeadNumbers.from_layer(layer) for layer in layers]
    changes = _changes(model, layers, numbers, chosen_heads(heads, layers))
    # Only here, where nothing can fail any more.
    for owner, name, value in changes:
        setattr(owner, name, value)
    setattr(model.config, RECORD, record(numbers))
    return model


@with_gradients(False, leave_inference=True)
def _changes(
    model: nn.Module, layers: Sequence[nn.Module], numbers: list[HeadNumbers], chosen: Mapping[int, Sequence[int]]
) -> list[Change]:
    """Return the changes that cut these heads, and put the numbers of the heads that remain in place."""
    changes: list[Change] = []
    for place, cut in chosen.items():
        if set(cut) & set(numbers[place].remaining):
            numbers[place], found = _without(layers[place], numbers[place], place, cut, model)
            changes += found
    return changes


def record(numbers: Iterable[HeadNumbers]) -> dict[str, list[int]]:
    """Return the pruned heads in the form of the configuration's entry."""
    gone = {str(i): sorted(set(range(n.total)) - set(n.remaining)) for i, n in enumerate(numbers)}
    return {layer: heads for layer, heads in gone.items() if heads}


def _without(
    layer: nn.Module, numbers: HeadNumbers, place: int, cut: Sequence[int], model: nn.Module
) -> tuple[HeadNumbers, list[Change]]:
    """Return the numbers of the heads that remain in a layer when some are cut, and the changes that cut them."""
    projections = Projections.from_layer(model, layer)
    _check_groups(projections, numbers.remaining, place, cut)
    keep = [at for at, head in enumerate(numbers.remaining) if head not in cut]
    left = HeadNumbers(numbers.total, tuple(numbers.remaining[at] for at in keep))
    return left, [*projections.changes(keep), left.change(layer)]


def _check_groups(projections: Projections, remaining: Sequence[int], place: int, cut: Sequence[int]) -> None:
    together = projections.heads // projections.groups
    groups: list[Any] = [list(remaining[at : at + together]) for at in range(0, len(remaining), together)]
    broken = [group for group in groups if 0 < len(set(group) & set(cut)) < together]
    if broken:
        raise ValueError(
            f"Heads of layer {place} share their keys and values in groups of {together}: {_listed(groups)}. Only "
            f"whole groups can be cut, and {_listed(broken)} would lose a part: give all heads of a group or none, or "
            "mask them (mask_heads)."
        )


def _listed(groups: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(tuple(group)) for group in groups)
