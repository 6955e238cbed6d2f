"""Finding attention layers by a pass: which modules make attention calls, in which order, and of which kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from captum_attattr.attention.call import AttentionCall, Result
from captum_attattr.attention.first_tensor import first_tensor
from captum_attattr.attention.followed import Followed
from captum_attattr.attention.head_axes import HeadAxes
from captum_attattr.attention.stand_ins import in_place_of_forward
from captum_attattr.attention.torch_door import PRODUCTS, Door

Kind = Literal["encoder", "decoder", "cross"]


class FoundCall(NamedTuple):
    """An attention call of a pass."""

    layer: nn.Module
    kind: Kind
    """"cross" where the keys are other tokens than the queries, "decoder" where no query may look at a later key."""
    heads: int


class _Running(NamedTuple):
    """A module call that has not ended."""

    module: nn.Module
    number: int
    given: Tensor | None
    """The first tensor of numbers that it got."""


class Search(Door):
    """Finds the attention calls of a pass.

    A layer is the innermost module, other than torch's own, in which both the softmax and the product with the values
    are computed. Its keys are its own tokens if the values are computed from the first tensor that the layer got: by
    custom, the states of the queries.

    Args:
        is_left_alone: Whether another backend watches a module: what torch computes in it does not count.
        is_layer: Whether the code of a module shows that it is an attention layer.

    Attributes:
        found: The calls, in order.
        refused: Layers whose softmax is used in a way that cannot be followed.
    """

    def __init__(self, is_left_alone: Callable[[nn.Module], bool], is_layer: Callable[[nn.Module], bool]) -> None:
        super().__init__((), self._found)
        self.found: list[FoundCall] = []
        self.refused: list[nn.Module] = []
        self._is_left_alone, self._is_layer = is_left_alone, is_layer
        self._running: list[_Running] = []
        self._calls = 0
        self._began: dict[int, list[nn.Module]] = {}
        """By softmax, the modules that ran then, the outermost first."""
        self._layer_by_softmax: dict[int, nn.Module] = {}
        self._first: Any = WeakIdKeyDictionary()
        """By tensor, the numbers of the running module calls whose first tensor it is computed from."""
        self._given: set[int] = set()
        """Numbers of the module calls that got a tensor of numbers."""
        self._values: list[Tensor] = []

    def search(self, model: nn.Module, function: Callable[[], object]) -> None:
        """Call a function that runs the model, and note its attention calls."""
        modules = [module for module in model.modules() if module is model or _has_code_of_its_own(module)]
        in_place_of_forward(
            {module: partial(partial, self._run, module) for module in modules}, partial(self.during, function)
        )
        found = {call.layer for call in self.found}
        for root in self._open:  # no product consumes it, in a layer that the engine would watch as a whole
            self.refused += [
                one for one in self._began[root] if self._watches(one) and (one in found or self._is_layer(one))
            ]
        self.found = [call for call in self.found if call.layer not in self.refused]

    def _watches(self, module: nn.Module) -> bool:
        return not self._is_left_alone(module)

    def handle(self, call: AttentionCall) -> Result:
        """Handle a call that another backend watches."""
        self._values = [call.like]
        return self._found(call)

    def __torch_function__(
        self, func: Any, types_: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See ``TorchFunctionMode``."""
        options = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((list(args), options)) if isinstance(leaf, Tensor)]
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self._values = [args[2] if len(args) > 2 else options["value"]]
        elif name in PRODUCTS or name == "einsum":
            self._values = [tensor for tensor in tensors if not self._is_followed(tensor)]
        watches = not self._running or self._watches(self._running[-1].module)
        result = super().__torch_function__(func, types_, args, options) if watches else func(*args, **options)
        running = {call.number for call in self._running}
        first = running & frozenset[int]().union(*(self._first.get(tensor, ()) for tensor in tensors))
        for leaf in tree_leaves(args[0] if name == "__setitem__" else result) if first else ():
            if isinstance(leaf, Tensor):
                self._first[leaf] = first | self._first.get(leaf, frozenset())
        return result

    def _run(self, module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        first = first_tensor(module, args, kwargs)
        call = _Running(module, self._calls, first)
        if first is not None:
            self._given.add(call.number)
            self._first[first] = self._first.get(first, frozenset()) | {call.number}
        self._running.append(call)
        try:
            result = own(*args, **kwargs)
        finally:
            del self._running[self._running.index(call) :]
        output = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if any(self._layer_by_softmax[root] is module for root in self._roots_of([output]) & self._consumed):
            self.refused.append(module)  # its output depends on its attention in another way besides
        return result

    def _found(self, call: AttentionCall) -> Result:
        number = next((one.number for one in reversed(self._running) if one.module is call.module), None)
        own_keys = number not in self._given or any(number in self._first.get(tensor, ()) for tensor in self._values)
        self.found.append(FoundCall(call.module, _kind_of(call, own_keys), call.sizes.heads))
        return call.proceed()

    def _remember(self, followed: Followed) -> None:
        super()._remember(followed)
        self._began.setdefault(followed.root, [call.module for call in self._running])

    def _layer_of(self, followed: Followed | None) -> nn.Module:
        running = [call.module for call in self._running]
        began = running if followed is None else self._began[followed.root]
        layer = [one for one, other in zip(running, began, strict=False) if one is other][-1]
        if followed is not None:
            self._layer_by_softmax[followed.root] = layer
        return layer

    def _refuse_parts(self, followed: Followed) -> None:
        self.refused.append(self._layer_of(followed))

    def _head_axes(self, layer: nn.Module, batch: Sequence[int]) -> HeadAxes:
        call = next((one for one in reversed(self._running) if one.module is layer), None)
        return HeadAxes.of(layer, batch, None if call is None else call.given)


def _has_code_of_its_own(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or not type(module).__module__.startswith("torch.")


def _kind_of(call: AttentionCall, own_keys: bool) -> Kind:
    if not own_keys:
        return "cross"
    queries, keys = call.sizes.queries, call.sizes.keys
    pairs, last = call.pairs(), keys - queries
    later = torch.ones(queries, keys, dtype=torch.bool, device=pairs.device).triu(last + 1)
    # That no query looks at a later key may be due to padding: the last one must look at its own.
    causal = queries > 1 and last >= 0 and bool(pairs[..., -1, -1].any()) and not bool((pairs & later).any())
    return "decoder" if causal else "encoder"
