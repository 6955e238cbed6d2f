"""What code asks of torch: softmax results are followed to the product that consumes them.

A mode of torch sees each function of torch that is called in its thread. What a softmax gives is followed to its
product with the values, which is an attention call, and so is a call of ``scaled_dot_product_attention``. Everything
else passes through. What is computed from a matrix in any other way is noted, so that a layer whose output depends on
its attention in two ways can be refused.
"""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from captum_attattr.attention.call import AttentionCall, Handler, Result
from captum_attattr.attention.einsum import einsum_product
from captum_attattr.attention.followed import SOFTMAX, Followed, is_elementwise, softmax_axis
from captum_attattr.attention.head_axes import HeadAxes
from captum_attattr.attention.modes import Mode
from captum_attattr.attention.torch_calls import FusedCall, MatrixCall

T = TypeVar("T")

PRODUCTS = {"matmul", "__matmul__", "bmm"}


class Door(Mode, ABC):
    """Watches the functions of torch, hands attention calls to handlers and puts what these return in their place.

    Args:
        handlers: What handles the attention calls.
        deliver: Hands a call to masks and handlers, and returns its result.
    """

    def __init__(self, handlers: tuple[Handler, ...], deliver: Callable[[AttentionCall], Result]) -> None:
        super().__init__()
        self._handlers, self._deliver = handlers, deliver
        self._followed: dict[int, Followed] = {}
        self._open: dict[int, int] = {}
        """By number of a softmax over the last axis that no product has consumed yet: the number of its rows."""
        self._consumed: set[int] = set()
        self._count = 0
        self._besides: dict[int, tuple[Tensor, frozenset[int]]] = {}
        """By id, what depends on matrices in another way than by their product with the values; by softmax."""
        self._replaced = False
        """Whether another context was put in the place of one that was computed from a matrix."""

    @abstractmethod
    def _layer_of(self, followed: Followed | None) -> nn.Module:
        """Return the layer that makes an attention call now; ``followed`` is None for a fused one."""

    @abstractmethod
    def _refuse_parts(self, followed: Followed) -> None:
        """Called where a product consumes a part of what a softmax gave, or consumes it again."""

    def _head_axes(self, layer: nn.Module, batch: Sequence[int]) -> HeadAxes:
        return HeadAxes.of(layer, batch, None)

    def __torch_function__(
        self, func: Any, types_: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See ``TorchFunctionMode``."""
        options = dict(kwargs or {})
        if _innermost.get() is not self:
            return func(*args, **options)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._fused(func, *args, **options)
        if func is F.multi_head_attention_forward:
            with self:
                return by_its_parts(*args, **options)
        sources = self._sources(args, options)
        if len(sources) == 1 and (name in PRODUCTS or name == "einsum"):
            result = self._einsum(args) if name == "einsum" else self._matmul(*args, **options)
            if result is not None:
                return result
        result = func(*args, **options)
        self._note(func, result, sources, args, options)
        return result

    def during(self, function: Callable[[], T]) -> T:
        """Call a function while this door is open, and those around it are not."""
        return copy_context().run(self._inside, function)

    def _inside(self, function: Callable[[], T]) -> T:
        _innermost.set(self)
        return super().during(function)

    def _is_followed(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._followed

    def _sources(self, args: Sequence[Any], options: Mapping[str, Any]) -> list[Followed]:
        if not self._followed:
            return []
        return [self._followed[id(one)] for one in _tensors([*args, *options.values()]) if id(one) in self._followed]

    def _note(
        self, func: Any, result: Any, sources: list[Followed], args: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        """Note what a function that has run made of matrices."""
        if getattr(func, "__name__", "") in SOFTMAX and isinstance(result, Tensor):
            self._begin(result, args, options)
            return
        becomes = sources[0].after(func, result, args, options) if len(sources) == 1 and _is_tensor(result) else None
        if becomes is not None:
            self._remember(becomes)
        elif sources or self._besides:
            self._note_besides(func, result, sources, args, options)

    def _begin(self, result: Tensor, args: Sequence[Any], options: Mapping[str, Any]) -> None:
        axis, scores = softmax_axis(result, args, options), args[0] if args else options.get("input")
        if axis is None or not isinstance(scores, Tensor):
            return
        self._count += 1
        followed = Followed(result, scores, self._count, axis)
        # A softmax over another axis, or of a vector for each example, is mostly no attention: nothing must consume it.
        if axis == result.dim() - 1 > 1:
            self._open[self._count] = followed.rows
        self._remember(followed)

    def _note_besides(
        self, func: Any, result: Any, sources: list[Followed], args: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        changed = args[0] if args and self._is_followed(args[0]) else None
        in_place = result is changed or getattr(func, "__name__", "") == "__setitem__"
        if changed is not None and in_place and not is_elementwise(func):
            del self._followed[id(changed)]  # its layout is another now
        roots = frozenset(source.root for source in sources) | self._roots_of([*args, *options.values()])
        made = args[0] if getattr(func, "__name__", "") == "__setitem__" else result
        for leaf in tree_leaves(made) if roots else ():
            if _is_tensor(leaf) and leaf.is_floating_point() and id(leaf) not in self._followed:
                self._besides[id(leaf)] = leaf, roots

    def _roots_of(self, values: Sequence[Any]) -> frozenset[int]:
        """The softmaxes on which these depend in another way than by a product with the values."""
        found = [self._besides[id(one)][1] for one in _tensors(values) if id(one) in self._besides]
        return frozenset[int]().union(*found)

    def _remember(self, followed: Followed) -> None:
        self._followed[id(followed.matrix)] = followed  # kept alive, so that no other tensor gets its id

    def _matmul(self, left: Any = None, right: Any = None, **options: Any) -> Tensor | None:
        """A product of two tensors, given by place or by name; None if it is not one of a matrix with values."""
        left = options.get("input", options.get("self")) if left is None else left
        right = options.get("other", options.get("mat2")) if right is None else right
        if not isinstance(left, Tensor) or not isinstance(right, Tensor) or "out" in options:
            return None
        if self._is_followed(left):
            return self._product(self._followed[id(left)], right)
        if left.dim() < 2 or right.dim() < 2:
            return None
        # Values (dim, key) times a matrix (key, query).
        turned = self._followed[id(right)].turned(lambda tensor: tensor.transpose(-1, -2))
        result = self._product(turned, left.transpose(-1, -2))
        return None if result is None else result.transpose(-1, -2)

    def _product(self, followed: Followed, values: Tensor) -> Tensor | None:
        """(..., query, key) times (..., key, dim), as an attention call; None if it is none."""
        matrix = followed.matrix
        if followed.keys != matrix.dim() - 1 or values.dim() < 2 or matrix.shape[-1] != values.shape[-2]:
            return None
        was_open = followed.root in self._open
        if not was_open and followed.root not in self._consumed and matrix.shape[-2] == 1:
            return None  # a softmax over another axis with one row each: a kernel, a weighted mean
        layer = self._layer_of(followed)
        batch = torch.broadcast_shapes(matrix.shape[:-2], values.shape[:-2])
        axes = self._head_axes(layer, batch)
        if axes.are_unclear(matrix):
            return None
        if followed.root in self._consumed or self._open.pop(followed.root, followed.rows) != followed.rows:
            self._refuse_parts(followed)
            return None
        self._consumed.add(followed.root)
        ran: list[bool] = []

        def product() -> Tensor:
            ran.append(True)
            return axes.grouped(torch.matmul(matrix, values)).transpose(1, 2)

        call = MatrixCall(
            module=layer,
            handlers=self._handlers,
            weights=axes.grouped(matrix),
            value=axes.grouped(values),
            scores=axes.grouped(followed.scores.detach()),
            product=product,
            dropped=followed.dropped,
            steps=frozenset(self._followed),
        )
        context = axes.apart(self._deliver(call)[0])
        self._replaced = self._replaced or not ran
        if id(values) in self._besides:
            self._besides[id(context)] = context, self._roots_of([values])
        return context

    def _einsum(self, args: Sequence[Any]) -> Tensor | None:
        """A product by einsum, if it is one of a matrix that is followed: as a product of two matrices."""
        operands = list(args[1]) if len(args) == 2 and isinstance(args[1], (list, tuple)) else list(args[1:])
        if not isinstance(args[0], str) or len(operands) != 2:
            return None
        first = self._is_followed(operands[0])
        matrix, values = operands if first else operands[::-1]
        product = einsum_product(args[0], matrix, values, first)
        if product is None:
            return None
        turned = self._followed[id(matrix)].turned(lambda tensor: tensor.permute(product.matrix))
        result = self._product(turned, values.permute(product.values))
        return None if result is None else result.permute(product.result)

    def _fused(
        self, func: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, **options: Any,
    ) -> Tensor:  # fmt: skip
        batch, layer = query.shape[:-2], self._layer_of(None)
        if not options.get("enable_gqa"):
            batch = torch.broadcast_shapes(*(one.shape[:-2] for one in (query, key, value)))
        axes = self._head_axes(layer, batch)
        if attn_mask is not None and attn_mask.dim() > 2 and len(batch) != 2:
            attn_mask = axes.grouped(attn_mask)
        grouped = (lambda tensor: tensor) if options.get("enable_gqa") and len(batch) == 2 else axes.grouped
        scale = options.pop("scale", None)
        call = FusedCall(
            module=layer,
            handlers=self._handlers,
            query=grouped(query),
            key=grouped(key),
            value=grouped(value),
            mask=attn_mask,
            causal=is_causal,
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            options={"dropout_p": dropout_p, **options},
            function=func,
        )
        return axes.apart(self._deliver(call)[0])


_innermost: ContextVar[Door | None] = ContextVar("captum_attattr_door", default=None)
"""The door of the innermost watched layer that runs in this thread."""


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (one for one in value if isinstance(one, Tensor))


# torch asks inside this function, too, whether a mode is on, and would hand it to the mode again and again.
by_its_parts = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    F.multi_head_attention_forward.__name__,
    F.multi_head_attention_forward.__defaults__,
    F.multi_head_attention_forward.__closure__,
)
by_its_parts.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__
