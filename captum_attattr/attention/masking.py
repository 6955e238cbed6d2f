"""Masks that switch heads off: the model then runs as if they had no attention."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from captum_attattr.attention.backend import masks
from captum_attattr.attention.backends import BACKENDS, backend_of, refuse_out_of_reach
from captum_attattr.attention.call import AttentionCall, UnsupportedModelError
from captum_attattr.attention.finding import attention_layers
from captum_attattr.attention.head_numbers import HeadChoice, HeadNumbers, chosen_heads
from captum_attattr.attention.undoing import undoing


class HeadMask:
    """A mask that switches heads off until :meth:`remove` is called: the result of :func:`mask_heads`.

    As a context manager it is removed at the end of the block.

    Attributes:
        heads: The masked heads, {layer: [heads]}.
    """

    def __init__(self, model: nn.Module, heads: HeadChoice) -> None:
        layers = attention_layers(model)
        self.heads = chosen_heads(heads, layers)
        refuse_out_of_reach(layers)
        # Weak references: a mask must not keep a model alive that is no longer used.
        masked = weakref.WeakKeyDictionary({layers[place]: numbers for place, numbers in self.heads.items()})
        self._mask = _Mask(next(_numbers), masked)
        self._ends: list[weakref.finalize[Any, Any]] = [weakref.finalize(layers[0], self._mask.remove)]
        try:
            self._mask.apply(model)
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

    def apply(self, model: nn.Module) -> None:
        for layer in list(self.masked):
            vars(layer)[self.sign] = True
        for backend in BACKENDS:
            backend.masked(model, [layer for layer in self.masked if backend_of(layer) is backend], self.number)
        masks[self.number] = self.mark

    def remove(self) -> None:
        masks.pop(self.number, None)
        for layer in list(self.masked):
            vars(layer).pop(self.sign, None)
        for backend in BACKENDS:
            backend.masked_no_more(self.number)

    def mark(self, call: AttentionCall) -> AttentionCall:
        masked = self.masked.get(call.module)
        if masked is None:
            if self.sign in vars(call.module):
                _refuse_copy(call.module)
            return call
        remaining, heads = HeadNumbers.from_layer(call.module).remaining, call.sizes.heads
        if len(remaining) != heads:
            raise UnsupportedModelError(
                f"{type(call.module).__name__} computes {heads} heads where {len(remaining)} were expected, so their "
                "numbers are unknown. Prune models with prune_heads, which keeps the numbers."
            )
        off = torch.tensor([head in masked for head in remaining], dtype=torch.bool, device=call.like.device)
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
        >>> from captum_attattr import mask_heads
        >>> from captum_attattr.demo import load_demo
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
