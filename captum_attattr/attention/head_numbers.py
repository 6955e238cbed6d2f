"""Numbers of heads, which stay those of the unpruned model."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.attention.backend import Backend
from captum_attattr.attention.call import UnsupportedModelError
from captum_attattr.attention.finding import attention_layers
from captum_attattr.attention.head_counts import head_count

HeadChoice = Mapping[int, Iterable[int]] | Iterable[tuple[int, int]] | Tensor
"""Heads as {layer: [heads]}, as (layer, head) pairs, or as a boolean (layers, heads) tensor."""

_NUMBERS = "captum_attattr_heads"


@dataclass(frozen=True)
class HeadNumbers:
    """The heads of one attention layer, numbered as in the model before pruning."""

    total: int
    """Number of heads before pruning."""
    remaining: tuple[int, ...]
    """The heads that are left, in order: the head axis of every tensor of the layer."""

    def __post_init__(self) -> None:
        if not self.remaining:
            Backend.without_heads = True

    def __reduce__(self) -> tuple[Any, ...]:  # a pickled model, too, is noticed when it is loaded
        return type(self), (self.total, self.remaining)

    @classmethod
    def from_layer(cls, layer: nn.Module) -> HeadNumbers:
        """Read the numbers that pruning stored at the layer; all numbers if it was never pruned."""
        known = getattr(layer, _NUMBERS, None)
        if isinstance(known, cls):
            return known
        total = head_count(layer)
        if total is None:
            raise UnsupportedModelError(
                f"The number of heads of a {type(layer).__name__} is not known from its attributes. Let a pass find "
                "it: attention_layers(model, *example_inputs)."
            )
        return cls(total, tuple(range(total)))

    def spread(self, scores: Tensor, dim: int) -> Tensor:
        """Insert zeros for the pruned heads into scores of the remaining heads, along the axis ``dim``."""
        if scores.shape[dim] != len(self.remaining):
            raise ValueError(
                f"Axis {dim} of a tensor of shape {tuple(scores.shape)} holds {scores.shape[dim]} heads, the layer has "
                f"{len(self.remaining)}."
            )
        if len(self.remaining) == self.total:
            return scores
        shape = list(scores.shape)
        shape[dim] = self.total
        index = torch.tensor(self.remaining, dtype=torch.long, device=scores.device)
        return scores.new_zeros(shape).index_copy(dim, index, scores)

    def change(self, layer: nn.Module) -> tuple[nn.Module, str, HeadNumbers]:
        """Return the change that stores these numbers at the layer: owner, attribute, value."""
        return layer, _NUMBERS, self


def remaining_heads(model: nn.Module) -> list[list[int]]:
    """Return the heads that each attention layer still has after pruning, in the unpruned model's numbering.

    Index h on the head axis of layer l, in attributions and elsewhere, is head ``remaining_heads(model)[l][h]``.

    Args:
        model: A model whose attention :func:`attention_layers` finds, pruned or not.

    Returns:
        One sorted list a layer, in the order of :func:`attention_layers`; empty for a layer that lost all its heads.

    Example:
        >>> from captum_attattr import remaining_heads
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.pruning import prune_heads
        >>> model, tokenizer = load_demo()
        >>> remaining_heads(prune_heads(model, {0: [1, 2, 3, 4, 5, 6, 7, 8, 9]}))[0]
        [0, 10, 11]
    """
    return [list(HeadNumbers.from_layer(layer).remaining) for layer in attention_layers(model)]


def original_heads(scores: Sequence[Tensor], layers: Sequence[nn.Module], dim: int = 1) -> list[Tensor]:
    """Put results for the heads of a pruned model on the head axis of the unpruned one, with zeros for pruned heads.

    Layers that lost different numbers of heads can then be stacked, and compared with those of the unpruned model.

    Args:
        scores: One tensor a layer, attributions (batch, head, query, key) or others with a head axis.
        layers: The attention layers that they belong to, in the same order.
        dim: The head axis.

    Returns:
        The tensors, each with as many heads as its layer had before pruning.

    Raises:
        ValueError: The number of tensors is not that of the layers, or a tensor has another number of heads than its
            layer.

    Example:
        >>> import torch
        >>> from captum_attattr import attention_layers, original_heads
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.pruning import prune_heads
        >>> model, tokenizer = load_demo()
        >>> layers = attention_layers(prune_heads(model, {0: range(2, 12)}))
        >>> original_heads([torch.ones(1, 2)], layers[:1])[0].tolist()
        [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    if len(scores) != len(layers):
        raise ValueError(f"Got {len(scores)} tensors for {len(layers)} layers: give one each.")
    return [HeadNumbers.from_layer(layer).spread(one, dim) for one, layer in zip(scores, layers, strict=True)]


def chosen_heads(heads: HeadChoice, layers: Sequence[nn.Module]) -> dict[int, list[int]]:
    """Turn any form of :data:`HeadChoice` into {layer: sorted heads}, without layers that have none.

    Raises:
        TypeError: ``heads`` has none of these forms.
        ValueError: A layer or a head does not exist, a head is given twice, or the tensor has another shape.
        UnsupportedModelError: The number of a layer's heads cannot be determined.
    """
    chosen: dict[int, list[int]] = {}
    for layer, head in _pairs(heads, layers):
        if not 0 <= layer < len(layers):
            raise ValueError(f"There is no layer {layer}: the model's layers are 0 to {len(layers) - 1}.")
        total = HeadNumbers.from_layer(layers[layer]).total
        if not 0 <= head < total:
            raise ValueError(
                f"Layer {layer} has no head {head}: its heads are 0 to {total - 1}, numbered as before any pruning."
            )
        if head in chosen.setdefault(layer, []):
            raise ValueError(f"Head {head} of layer {layer} is given twice.")
        chosen[layer].append(head)
    return {layer: sorted(chosen[layer]) for layer in sorted(chosen)}


def _pairs(heads: Any, layers: Sequence[nn.Module]) -> list[tuple[int, int]]:
    if isinstance(heads, Tensor):
        numbers = [HeadNumbers.from_layer(layer) for layer in layers]
        shape = (len(numbers), numbers[0].total)
        if len({layer.total for layer in numbers}) > 1:
            raise ValueError("The model's layers differ in their number of heads: give {layer: [heads]}, not a tensor.")
        if heads.dtype != torch.bool or tuple(heads.shape) != shape:
            raise ValueError(
                f"A tensor of heads must be boolean, (layers, heads) = {shape}, True for the heads that are meant; "
                f"got {heads.dtype} of shape {tuple(heads.shape)}."
            )
        return [(layer, head) for layer, head in heads.nonzero().tolist()]
    expected = "heads must be {layer: [heads]}, (layer, head) pairs or a boolean (layers, heads) tensor"
    try:
        pairs = [(x, y) for x in heads for y in heads[x]] if isinstance(heads, Mapping) else [(x, y) for x, y in heads]
        if isinstance(heads, (str, bytes)) or any(_is_boolean(number) for pair in pairs for number in pair):
            raise TypeError("strings or booleans are no numbers of heads")
        return [(operator.index(layer), operator.index(head)) for layer, head in pairs]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected} of whole numbers; got {heads!r}.") from error


def _is_boolean(number: Any) -> bool:
    return isinstance(number, bool) or "bool" in str(getattr(number, "dtype", ""))
