"""Numbers of heads, and masks that switch heads off: the model then runs as if they had no attention."""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_attattr.attention.transformers_interface import (
    AttentionCall,
    UnsupportedModelError,
    attention_layers,
    masks,
    refuse_out_of_reach,
)
from captum_attattr.attention.undoing import undoing

HeadChoice = Mapping[int, Iterable[int]] | Iterable[tuple[int, int]] | Tensor
"""Heads as {layer: [heads]}, as (layer, head) pairs, or as a boolean (layers, heads) tensor."""

# Attention layers have the number of their heads in one of these attributes, or only in the configuration.
_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
_NUMBERS = "captum_attattr_heads"


@dataclass(frozen=True)
class HeadNumbers:
    """The heads of one attention layer, numbered as in the model before pruning."""

    total: int
    """Number of heads before pruning."""
    remaining: tuple[int, ...]
    """The heads that are left, in order: the head axis of every tensor of the layer."""

    @classmethod
    def from_layer(cls, layer: nn.Module) -> HeadNumbers:
        """Read the numbers that pruning stored at the layer; all numbers if it was never pruned."""
        known = getattr(layer, _NUMBERS, None)
        if isinstance(known, cls):
            return known
        config: Any = layer.config
        counts = [getattr(layer, name) for name in _COUNTS if isinstance(getattr(layer, name, None), int)]
        total = counts[0] if counts else getattr(config, "num_attention_heads", None)
        if not isinstance(total, int):
            raise UnsupportedModelError(f"The number of heads of a {type(layer).__name__} cannot be determined.")
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
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.attention.masking import remaining_heads
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
        >>> from captum_attattr import attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.attention.masking import original_heads
        >>> from captum_attattr.pruning import prune_heads
        >>> model, tokenizer = load_demo()
        >>> layers = attention_layers(prune_heads(model, {0: range(2, 12)}))
        >>> original_heads([torch.ones(1, 2)], layers[:1])[0].tolist()
        [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    if len(scores) != len(layers):
        raise ValueError(f"Got {len(scores)} tensors for {len(layers)} layers: give one each.")
    return [HeadNumbers.from_layer(layer).spread(one, dim) for one, layer in zip(scores, layers, strict=True)]


def chosen_heads(heads: HeadChoice, numbers: list[HeadNumbers]) -> dict[int, list[int]]:
    """Turn any form of :data:`HeadChoice` into {layer: sorted heads}, without layers that have none.

    Raises:
        TypeError: ``heads`` has none of these forms.
        ValueError: A layer or a head does not exist, a head is given twice, or the tensor has another shape.
    """
    chosen: dict[int, list[int]] = {}
    for layer, head in _pairs(heads, numbers):
        if not 0 <= layer < len(numbers):
            raise ValueError(f"There is no layer {layer}: the model's layers are 0 to {len(numbers) - 1}.")
        if not 0 <= head < numbers[layer].total:
            raise ValueError(
                f"Layer {layer} has no head {head}: its heads are 0 to {numbers[layer].total - 1}, numbered as before "
                "any pruning."
            )
        if head in chosen.setdefault(layer, []):
            raise ValueError(f"Head {head} of layer {layer} is given twice.")
        chosen[layer].append(head)
    return {layer: sorted(chosen[layer]) for layer in sorted(chosen)}


def _pairs(heads: Any, numbers: list[HeadNumbers]) -> list[tuple[int, int]]:
    if isinstance(heads, Tensor):
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


class HeadMask:
    """A mask that switches heads off until :meth:`remove` is called: the result of :func:`mask_heads`.

    As a context manager it is removed at the end of the block.

    Attributes:
        heads: The masked heads, {layer: [heads]}.
    """

    def __init__(self, model: nn.Module, heads: HeadChoice) -> None:
        layers = attention_layers(model)
        self.heads = chosen_heads(heads, [HeadNumbers.from_layer(layer) for layer in layers])
        refuse_out_of_reach(layers)
        # Weak references: a mask must not keep a model alive that is no longer used.
        masked = weakref.WeakKeyDictionary({layers[place]: numbers for place, numbers in self.heads.items()})
        self._mask = _Mask(next(_numbers), masked)
        self._ends: list[weakref.finalize[Any, Any]] = [weakref.finalize(layers[0], self._mask.remove)]
        try:
            self._mask.apply()
        except BaseException:
            self.remove()
            raise

    @property
    def active(self) -> bool:
        """Whether the heads are switched off now."""
        return self._mask.number in masks

    def remove(self) -> None:
        """Switch the heads on again; a second call does nothing."""
        undoing(lambda undo: undo.extend([*(end.detach for end in self._ends), self._mask.remove]))

    def __enter__(self) -> HeadMask:
        # An interrupt may come before the first line of __exit__: then the mask is removed with its handle.
        self._ends.append(weakref.finalize(self, self._mask.remove))
        if not self.active:
            raise RuntimeError("This mask was removed before: call mask_heads again.")
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


_numbers = itertools.count()


class _Mask(NamedTuple):
    """The mask itself, which is registered as long as the heads are masked."""

    number: int
    masked: weakref.WeakKeyDictionary[nn.Module, list[int]]

    @property
    def sign(self) -> str:
        """Name of an attribute of the masked layers: a copy of a layer has it, too, but is not in ``masked``."""
        return f"captum_attattr_mask_{self.number}"

    def apply(self) -> None:
        for layer in list(self.masked):
            vars(layer)[self.sign] = True
        masks[self.number] = self.mark

    def remove(self) -> None:
        masks.pop(self.number, None)
        for layer in list(self.masked):
            vars(layer).pop(self.sign, None)

    def mark(self, call: AttentionCall) -> AttentionCall:
        masked = self.masked.get(call.module)
        if masked is None:
            if self.sign in vars(call.module):
                _refuse_copy(call.module)
            return call
        remaining, heads = HeadNumbers.from_layer(call.module).remaining, call.query.shape[1]
        if len(remaining) != heads:
            raise UnsupportedModelError(
                f"{type(call.module).__name__} computes {heads} heads where {len(remaining)} were expected, so their "
                "numbers are unknown. Prune models with prune_heads, which keeps the numbers."
            )
        off = torch.tensor([head in masked for head in remaining], dtype=torch.bool, device=call.query.device)
        return replace(call, off=off if call.off is None else call.off | off)


def _refuse_copy(module: nn.Module) -> None:
    if getattr(module, "_is_replica", False):
        raise UnsupportedModelError(
            "DataParallel runs copies of the model's layers, which cannot be masked. Use DistributedDataParallel, or "
            "the model itself on one device."
        )
    raise RuntimeError(
        "This model is a copy, made while heads of the original were masked, and has no mask itself. Copy the model "
        "before its heads are masked, or run the copy after the mask of the original is removed."
    )


def mask_heads(model: nn.Module, heads: HeadChoice) -> HeadMask:
    r"""Switch heads off: multiply their attention by 0, in every forward and backward pass, until the mask is removed.

    The mask is that of Michel, Levy, Neubig (Are Sixteen Heads Really Better than One?, NeurIPS 2019, section 2.3), by
    which Hao et al. (AAAI 2021, section 5) prune heads: with :math:`\xi_h = 0` for the given heads,

    .. math:: MHAtt(x) = \sum_h \xi_h \, A_h V_h W_h

    Everything that runs the model then runs it without these heads: training, generation, :func:`explain` and
    :class:`SelfAttentionAttribution`, in which they have exactly zero attention and attribution. It works with eager
    attention and SDPA and for every model that :func:`attention_layers` supports; masks may be nested.

    Args:
        model: The model, or a part of it; layers are numbered in the order of ``attention_layers(model)``. A layer
            that the model runs several times (ALBERT) is masked each time.
        heads: As {layer: [heads]}, as (layer, head) pairs, or as a boolean (layers, heads) tensor, True where a head
            is to be masked. In a pruned model heads keep the numbers from before pruning; pruned heads may be given
            and have no effect.

    Returns:
        A handle whose ``remove()`` removes the mask, and a context manager that removes it at the end of its block. The
        mask holds in all threads. A copy of the model has no mask and refuses to run while the mask is on. With
        gradient checkpointing, which computes activations again, keep the backward pass inside the block.

    Raises:
        TypeError: ``heads`` has another form, or ``model`` is no module.
        ValueError: A layer or head does not exist or is given twice.
        UnsupportedModelError: The model's attention cannot be reached, or runs in copies (DataParallel).

    Example:
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.attention.masking import mask_heads
        >>> model, tokenizer = load_demo()
        >>> batch = tokenizer("A warm, funny film.", return_tensors="pt")
        >>> clean = model(**batch).logits
        >>> with mask_heads(model, {5: range(12)}):
        ...     without_last_attention = model(**batch).logits
        >>> bool((without_last_attention - clean).abs().max() > 0.01), bool((model(**batch).logits == clean).all())
        (True, True)
        >>> handle = mask_heads(model, [(0, 3), (2, 7)])  # until handle.remove()
        >>> handle.remove()
    """
    return HeadMask(model, heads)
