"""Heads by their numbers, and heads switched off: the model as if these heads gave no attention to anything."""

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

# Attention layers name the number of their heads in one of these ways, or leave it to the configuration.
_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
_NUMBERS = "captum_attattr_heads"


@dataclass(frozen=True)
class HeadNumbers:
    """The heads of one attention layer, numbered as in the model before pruning."""

    total: int
    """How many the layer had then."""
    remaining: tuple[int, ...]
    """Those that it still has, in order: the head axis of anything computed by the layer."""

    @classmethod
    def of(cls, layer: nn.Module) -> HeadNumbers:
        """The numbers that pruning left at the layer; all of them where it was never pruned."""
        known = getattr(layer, _NUMBERS, None)
        if isinstance(known, cls):
            return known
        config: Any = layer.config
        counts = [getattr(layer, name) for name in _COUNTS if isinstance(getattr(layer, name, None), int)]
        total = counts[0] if counts else getattr(config, "num_attention_heads", None)
        if not isinstance(total, int):
            raise UnsupportedModelError(f"How many heads a {type(layer).__name__} has cannot be found out.")
        return cls(total, tuple(range(total)))

    def spread(self, scores: Tensor, dim: int) -> Tensor:
        """Scores of the remaining heads, with zeros for the others between them."""
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
        """What leaves these numbers at the layer: owner, attribute, value."""
        return layer, _NUMBERS, self


def remaining_heads(model: nn.Module) -> list[list[int]]:
    """The heads that each attention layer of a model still has after pruning, in the unpruned model's numbering.

    Place h on the head axis of layer l, in attributions and everywhere else, is head ``remaining_heads(model)[l][h]``.

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
    return [list(HeadNumbers.of(layer).remaining) for layer in attention_layers(model)]


def original_heads(scores: Sequence[Tensor], layers: Sequence[nn.Module], dim: int = 1) -> list[Tensor]:
    """What was found for the heads of a pruned model, on the head axis of the unpruned one: zero where heads are gone.

    So layers that lost different numbers of heads can be stacked, and compared with those of the unpruned model.

    Args:
        scores: One tensor a layer, attributions (batch, head, query, key) or others with a head axis.
        layers: The attention layers that they belong to, in the same order.
        dim: Where the head axis is.

    Returns:
        The tensors, each with as many heads as its layer had before pruning.

    Raises:
        ValueError: Another number of tensors than of layers, or of heads in a tensor than its layer has.

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
    return [HeadNumbers.of(layer).spread(one, dim) for one, layer in zip(scores, layers, strict=True)]


def chosen_heads(heads: HeadChoice, numbers: list[HeadNumbers]) -> dict[int, list[int]]:
    """Heads in any of the forms of :data:`HeadChoice` as {layer: sorted heads}, layers without one left out.

    Raises:
        TypeError: ``heads`` has none of these forms.
        ValueError: A layer or a head does not exist, a head is there twice, or the tensor has another shape.
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
            raise TypeError("letters or booleans are no numbers of heads")
        return [(operator.index(layer), operator.index(head)) for layer, head in pairs]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected} of whole numbers; got {heads!r}.") from error


def _is_boolean(number: Any) -> bool:
    return isinstance(number, bool) or "bool" in str(getattr(number, "dtype", ""))


class HeadMask:
    """Heads that are switched off, until :meth:`remove`: what :func:`mask_heads` returns.

    As a context manager it is removed at the end of the block.

    Attributes:
        heads: The masked heads, {layer: [heads]}.
    """

    def __init__(self, model: nn.Module, heads: HeadChoice) -> None:
        layers = attention_layers(model)
        self.heads = chosen_heads(heads, [HeadNumbers.of(layer) for layer in layers])
        refuse_out_of_reach(layers)
        # By weak references: a mask that lasts must not keep a model alive that nobody else holds.
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
        """Switch the heads on again; a second time does nothing."""
        undoing(lambda undo: undo.extend([*(end.detach for end in self._ends), self._mask.remove]))

    def __enter__(self) -> HeadMask:
        # An interrupt may come before the first line of __exit__: then the mask goes with its handle.
        self._ends.append(weakref.finalize(self, self._mask.remove))
        if not self.active:
            raise RuntimeError("This mask was removed before: call mask_heads again.")
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


_numbers = itertools.count()


class _Mask(NamedTuple):
    """What masks heads, and is held as long as they are masked."""

    number: int
    masked: weakref.WeakKeyDictionary[nn.Module, list[int]]

    @property
    def sign(self) -> str:
        """An attribute of the masked layers, by which a copy of them is known, which has no mask."""
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
        remaining, heads = HeadNumbers.of(call.module).remaining, call.query.shape[1]
        if len(remaining) != heads:
            raise UnsupportedModelError(
                f"{type(call.module).__name__} computes {heads} heads where {len(remaining)} were to be expected: they "
                "cannot be told apart. Prune models with prune_heads, which keeps the numbers."
            )
        off = torch.tensor([head in masked for head in remaining], dtype=torch.bool, device=call.query.device)
        return replace(call, off=off if call.off is None else call.off | off)


def _refuse_copy(module: nn.Module) -> None:
    if getattr(module, "_is_replica", False):
        raise UnsupportedModelError(
            "DataParallel runs copies of the model's layers, which no mask knows. Use DistributedDataParallel, or the "
            "model itself on one device."
        )
    raise RuntimeError(
        "This model is a copy, made while heads of the original were masked, and has no mask itself. Copy the model "
        "before its heads are masked, or run the copy when the mask of the original is removed."
    )


def mask_heads(model: nn.Module, heads: HeadChoice) -> HeadMask:
    r"""Switch heads off: multiply their attention by 0, in every forward and backward pass, until it is undone.

    The mask of Michel, Levy, Neubig (Are Sixteen Heads Really Better than One?, NeurIPS 2019, section 2.3), by which
    Hao et al. (AAAI 2021, section 5) prune heads: with :math:`\xi_h = 0` for the given heads,

    .. math:: MHAtt(x) = \sum_h \xi_h \, A_h V_h W_h

    The model is then one without these heads for whatever runs it: training, generation, :func:`explain` and
    :class:`SelfAttentionAttribution`, in which they have exactly zero attention and attribution. Works with eager
    attention and SDPA and for every family that :func:`attention_layers` knows; masks may be nested.

    Args:
        model: The model, or a part of it; layers are numbered in the order of ``attention_layers(model)``. A layer
            that the model runs several times (ALBERT) is masked each time.
        heads: As {layer: [heads]}, as (layer, head) pairs, or as a boolean (layers, heads) tensor, True where a head
            is to be masked. In a pruned model heads have the numbers that they had before; those that were cut out
            may be given and stay as they are.

    Returns:
        A handle whose ``remove()`` undoes it, and a context manager that does so at the end of its block. All threads
        see the mask. A copy of the model has none: it refuses to run while the mask is on. Where activations are
        computed again for the backward pass (gradient checkpointing), keep that pass inside the block.

    Raises:
        TypeError: ``heads`` has another form, or ``model`` is no module.
        ValueError: A layer or head does not exist or is given twice.
        UnsupportedModelError: The model's attention is out of reach, or runs in copies (DataParallel).

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
