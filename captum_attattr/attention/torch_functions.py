"""The backend for attention by torch's own functions, whoever wrote the code that calls them.

A layer's forward is watched while it runs, by a :class:`~captum_attattr.attention.torch_door.Door`. Models whose
attention goes through transformers' interface are left to that backend, which costs less.
"""

from __future__ import annotations

import dis
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from functools import cache, partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from captum_attattr.attention.backend import Backend
from captum_attattr.attention.call import AttentionCall, Handler, Result, UnsupportedModelError
from captum_attattr.attention.first_tensor import first_tensor
from captum_attattr.attention.followed import Followed
from captum_attattr.attention.head_axes import HeadAxes
from captum_attattr.attention.head_counts import found_heads
from captum_attattr.attention.interface_call import forward_names
from captum_attattr.attention.modes import Mode
from captum_attattr.attention.stand_ins import in_place_everywhere, in_place_no_more, in_place_of_forward
from captum_attattr.attention.torch_door import Door

T = TypeVar("T")

_SOFTMAX = {"softmax", "Softmax"}
_PRODUCTS = {"matmul", "bmm", "einsum", "baddbmm"}

_handlers: ContextVar[Mapping[nn.Module, tuple[Handler, ...]]] = ContextVar(
    "captum_attattr_handlers", default=MappingProxyType({})
)
"""By layer, what handles its calls in this thread, the innermost first."""


class TorchFunctions(Backend):
    """Attention by softmax and a product with the values, or by ``scaled_dot_product_attention``."""

    def holds(self, module: nn.Module) -> bool:
        """See :meth:`Backend.holds`."""
        if "ALL_ATTENTION_FUNCTIONS" in forward_names(module):
            return False
        if isinstance(module, nn.MultiheadAttention) or module in found_heads:
            return True
        inside = (one for one in module.modules() if one is not module)
        return _seems_to_attend(module) and not any(_attends(one) for one in inside)

    def refuse_out_of_reach(self, layer: nn.Module) -> None:
        """See :meth:`Backend.refuse_out_of_reach`."""
        kind: Any = type(layer)
        if "flex_attention" in _names_in(kind):
            raise UnsupportedModelError(
                f"{kind.__name__} calls flex_attention, which gives no attention probabilities. Let it call "
                "scaled_dot_product_attention."
            )

    def watching(self, layers: Sequence[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
        """See :meth:`Backend.watching`."""
        watched = dict(_handlers.get())
        makers = {layer: partial(partial, _run, layer) for layer in layers if layer not in watched}
        watched |= {layer: (handler, *watched.get(layer, ())) for layer in layers}
        if any(isinstance(layer, nn.MultiheadAttention) for layer in layers):
            function = partial(_SlowPaths().during, function)
        return copy_context().run(_with_handlers, watched, partial(in_place_of_forward, makers, function))

    def masked(self, model: nn.Module, layers: Sequence[nn.Module], mask: Hashable) -> None:
        """See :meth:`Backend.masked`."""
        carriers = _carriers[mask] = weakref.WeakKeyDictionary()
        for layer in layers:
            carriers[layer] = None
            in_place_everywhere(layer, partial(partial, _run_masked, layer), mask)
            if isinstance(layer, nn.MultiheadAttention):
                # As register_forward_pre_hook does it, but with a handle beforehand.
                handle = carriers[layer] = RemovableHandle(layer._forward_pre_hooks)
                layer._forward_pre_hooks[handle.id] = _no_fast_path
        for module in model.modules():
            if isinstance(module, _WITH_FAST_PATHS) and any(layer in carriers for layer in module.modules()):
                carriers[module] = None
                in_place_everywhere(module, partial(partial, _run_slowly), mask)

    def masked_no_more(self, mask: Hashable) -> None:
        """See :meth:`Backend.masked_no_more`."""
        for module, hook in list(_carriers.get(mask, {}).items()):
            in_place_no_more(module, mask)
            if hook is not None:
                hook.remove()
        _carriers.pop(mask, None)


_BACKEND = TorchFunctions()


def _with_handlers(watched: Mapping[nn.Module, tuple[Handler, ...]], function: Callable[[], T]) -> T:
    _handlers.set(watched)
    return function()


def _run(layer: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _LayerDoor(layer, first_tensor(layer, args, kwargs)).run(partial(own, *args, **kwargs))


def _run_masked(layer: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    door = _LayerDoor(layer, first_tensor(layer, args, kwargs))
    result = door.run(partial(own, *args, **kwargs))
    if not door.calls:
        raise UnsupportedModelError(
            f"Heads of a {type(layer).__name__} are masked, but no attention was seen in its forward: the mask has no "
            "effect on it."
        )
    return result


class _LayerDoor(Door):
    """Watches the functions of torch during one call of a layer's forward."""

    def __init__(self, layer: nn.Module, given: Tensor | None) -> None:
        super().__init__(_handlers.get().get(layer, ()), self._handled)
        self._layer, self._given = layer, given
        self.calls = 0

    def run(self, function: Callable[[], T]) -> T:
        """Call the layer's forward.

        Raises:
            UnsupportedModelError: Its attention was not seen as a whole.
        """
        result = self.during(function)
        if self._open:
            raise UnsupportedModelError(_refusal(self._layer, "is not multiplied with values in one product"))
        output = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if self._consumed & self._roots_of([output]):
            raise UnsupportedModelError(_refusal(self._layer, "is used in another way besides"))
        return tree_map(self._unknown, result) if self._replaced else result

    def _unknown(self, value: Any) -> Any:
        """Put NaN in place of weights that a layer returns: they do not belong to the context that was put in place."""
        followed = self._followed.get(id(value))
        roots = self._roots_of([value]) if followed is None else frozenset([followed.root])
        return torch.full_like(value, torch.nan) if roots & self._consumed else value

    def _handled(self, call: AttentionCall) -> Result:
        self.calls += 1
        return _BACKEND.handled(call)

    def _layer_of(self, followed: Followed | None) -> nn.Module:
        return self._layer

    def _head_axes(self, layer: nn.Module, batch: Sequence[int]) -> HeadAxes:
        return HeadAxes.of(layer, batch, self._given)

    def _refuse_parts(self, followed: Followed) -> None:
        raise UnsupportedModelError(_refusal(self._layer, "is used in parts, or several times"))


def _refusal(layer: nn.Module, what: str) -> str:
    return (
        f"{type(layer).__name__} computes attention in a way that cannot be followed: what its softmax gives {what} "
        "(attention in chunks, by landmarks, approximated). If this layer is no attention, leave it out: "
        "attention_layers(model, *example_inputs) lists those that are."
    )


class _SlowPaths(Mode):
    """With any mode on, torch's Transformer layers do not take their fast path, which computes all in one function."""

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _run_slowly(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _SlowPaths().during(partial(own, *args, **kwargs))


def _no_fast_path(module: nn.Module, args: Any) -> None:
    """A hook that does nothing: where there is one, torch's Transformer layers call their attention module."""


_WITH_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
_carriers: dict[Hashable, weakref.WeakKeyDictionary[nn.Module, RemovableHandle | None]] = {}
"""By mask, the modules that run something in place of their forward meanwhile, with a hook of theirs."""


def _attends(module: nn.Module) -> bool:
    """Whether a module inside another is an attention layer by itself."""
    through_the_interface = "ALL_ATTENTION_FUNCTIONS" in forward_names(module)
    return isinstance(module, nn.MultiheadAttention) or through_the_interface or _seems_to_attend(module)


def _seems_to_attend(module: nn.Module) -> bool:
    """Whether the code of a module, and of those directly in it, has SDPA, or a softmax and a product."""
    kinds: list[Any] = [type(one) for one in (module, *module.children())]
    own = _names_in(kinds[0]) | {"softmax" for child in module.children() if isinstance(child, nn.Softmax)}
    if own & {"scaled_dot_product_attention", "multi_head_attention_forward"}:
        return True
    return bool(own & _SOFTMAX) and any(map(_has_product, kinds))


@cache
def _names_in(kind: type) -> frozenset[str]:
    return frozenset(name for code in _codes(kind) for name in code.co_names)


@cache
def _has_product(kind: type) -> bool:
    """Whether a class's code has a product of matrices; "@" has no name and is found by disassembly, which is slow."""
    if _names_in(kind) & _PRODUCTS:
        return True
    instructions = (instruction for code in _codes(kind) for instruction in dis.get_instructions(code))
    return any(one.opname == "BINARY_OP" and "@" in one.argrepr for one in instructions)


def _codes(kind: type) -> Iterator[types.CodeType]:
    """Yield the code of a class's functions, and of the functions in these; none for the classes of torch."""
    if kind.__module__.startswith("torch."):
        return
    for base in kind.__mro__:
        if base is nn.Module:
            return
        for value in vars(base).values():
            if isinstance(value, types.FunctionType):
                yield from _with_inner(value.__code__)


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)
