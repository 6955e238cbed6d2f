"""Which module calls have ended at some point of a pass, and how to let them hand back what they gave then."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass
class EndedCall:
    """A module call that ended, with its output."""

    module: nn.Module
    occurrence: int
    place: int
    """Among all module calls, in the order in which they begun."""
    output: Any
    inside: list[nn.Module]
    """The modules that it called, and those that they called, once for each call."""


@dataclass
class _Open:
    """A module call under way, and the calls right inside it that have ended."""

    module: nn.Module | None
    occurrence: int = 0
    begun: int = 0
    """How many calls had begun with it."""
    ended: list[EndedCall] = field(default_factory=list)


class ModuleCalls:
    """Follows which modules are being called, in this thread only, while the clean pass runs.

    Args:
        begins: Called with each outermost module before it runs for the first time.
    """

    def __init__(self, begins: Callable[[nn.Module], object] = lambda root: None) -> None:
        self._begins = begins
        self._thread = threading.get_ident()
        self._chain = [_Open(None)]
        self._occurrences: Counter[nn.Module] = Counter()
        self.begun: list[nn.Module] = []
        self.sizes: list[list[int]] = []
        """By module call: the length of each tensor of its output; -1 for what has none."""
        self.roots: list[nn.Module] = []

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the calls until the block ends."""
        # These hooks are torch's public ones for all modules: the forward function may be any lambda, so
        # its modules are not known beforehand. They go again before this block ends.
        entering = register_module_forward_pre_hook(self._enter)
        leaving = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()

    def ended(self) -> list[EndedCall]:
        """The widest module calls that have ended so far."""
        return [ended for call in self._chain for ended in call.ended]

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd):
            refuse_dropout(module.p)
        if len(self._chain) == 1 and module not in self.roots:
            self.roots.append(module)
            self._begins(module)
        self.begun.append(module)
        self.sizes.append([])
        self._chain.append(_Open(module, self._occurrences[module], len(self.begun)))
        self._occurrences[module] += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread or self._chain[-1].module is not module:
            return
        call = self._chain.pop()
        place, inside = call.begun - 1, self.begun[call.begun :]
        leaves, form = tree_flatten(output)
        self.sizes[place] = [len(one) if isinstance(one, Tensor) and one.dim() else -1 for one in leaves]
        # In containers of its own: models put other things into those that they were given.
        self._chain[-1].ended.append(EndedCall(module, call.occurrence, place, tree_unflatten(leaves, form), inside))


@contextmanager
def handing_back(ended: Sequence[EndedCall], pick: Callable[[EndedCall], Any]) -> Iterator[None]:
    """Let these module calls return what ``pick`` makes of them, without running."""
    recorded: dict[nn.Module, dict[int, EndedCall]] = {}
    for call in ended:
        recorded.setdefault(call.module, {})[call.occurrence] = call
    occurrences: Counter[nn.Module] = Counter()
    with ExitStack() as stack:
        for module, calls in recorded.items():
            stack.enter_context(_forward_set(module, calls, occurrences, pick))
        yield


@contextmanager
def _forward_set(
    module: nn.Module, calls: Mapping[int, EndedCall], occurrences: Counter[nn.Module], pick: Callable[[EndedCall], Any]
) -> Iterator[None]:
    own, owner = module.forward, threading.get_ident()

    def forward(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            return own(*args, **kwargs)
        call = calls.get(occurrences[module])
        occurrences[module] += 1
        if call is None:
            return own(*args, **kwargs)
        # Where weights are shared, what did not run now still counts: the next call is the one that it was.
        occurrences.update(call.inside)
        return pick(call)

    set_before = "forward" in vars(module)
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if set_before:
            module.forward = own  # type: ignore[method-assign]


def refuse_dropout(probability: float) -> None:
    """Raise where something is about to be dropped at random."""
    if probability > 0:
        raise ValueError(
            "The model is in training mode and drops out at random: its output is not a function of its input. "
            "Call model.eval() first."
        )
