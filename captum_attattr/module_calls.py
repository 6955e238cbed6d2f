"""Which module calls have ended at some point of a pass, and how to let them hand back what they gave then."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from captum_attattr.attention_call import UnsupportedModelError
from captum_attattr.undoing import Undo, one_at_a_time, undoing

T = TypeVar("T")


@dataclass
class EndedCall:
    """A module call that ended, with its output."""

    module: nn.Module
    occurrence: int
    place: int
    """Among all module calls, in the order in which they began."""
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
        self._hooks: list[RemovableHandle] = []

    def following(self, function: Callable[[], T]) -> T:
        """Call a function and follow the module calls until it ends."""

        # These hooks are torch's public ones for all modules: the forward function may be any lambda, so
        # its modules are not known beforehand. They go again when it ends.
        def followed(undo: list[Undo]) -> T:
            undo.append(self._follow_no_more)
            self._hooks.append(register_module_forward_pre_hook(self._enter))
            self._hooks.append(register_module_forward_hook(self._leave, always_call=True))
            return function()

        return undoing(followed)

    def _follow_no_more(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def ended(self) -> list[EndedCall]:
        """The widest module calls that have ended so far."""
        return [ended for call in self._chain for ended in call.ended]

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        _refuse_what_cannot_be_followed(module)
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


_Forwards = Mapping[nn.Module, Callable[..., Any]]
_forwards: ContextVar[_Forwards] = ContextVar("captum_attattr_forwards", default=MappingProxyType({}))
"""What modules run in place of their forward, in this thread."""


def handing_back(ended: Sequence[EndedCall], pick: Callable[[EndedCall], Any], function: Callable[[], T]) -> T:
    """Call a function; in it these module calls return what ``pick`` makes of them, without running.

    In this thread only: whoever else runs the modules meanwhile runs them as they are.
    """
    recorded: dict[nn.Module, dict[int, EndedCall]] = {}
    for call in ended:
        recorded.setdefault(call.module, {})[call.occurrence] = call
    occurrences: Counter[nn.Module] = Counter()

    def handed_back(undo: list[Undo]) -> T:
        forwards = dict(_forwards.get())
        for module, calls in recorded.items():
            undo.append(partial(one_at_a_time, partial(_set_back, module, forwards)))
            own = forwards.get(module) or one_at_a_time(partial(_StandIn.of, module, forwards)).own
            forwards[module] = partial(_hand_back, own, module, calls, occurrences, pick)
        return copy_context().run(_with_forwards, forwards, function)

    return undoing(handed_back)


def _with_forwards(forwards: _Forwards, function: Callable[[], T]) -> T:
    _forwards.set(forwards)
    return function()


def _hand_back(
    own: Callable[..., Any],
    module: nn.Module,
    calls: Mapping[int, EndedCall],
    occurrences: Counter[nn.Module],
    pick: Callable[[EndedCall], Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    call = calls.get(occurrences[module])
    occurrences[module] += 1
    if call is None:
        return own(*args, **kwargs)
    # Where weights are shared, what did not run now still counts: the next call is the one that it was.
    occurrences.update(call.inside)
    return pick(call)


class _StandIn:
    """A module's ``forward`` while somebody has it hand back outputs. For everybody else it is the module's own."""

    def __init__(self, module: nn.Module) -> None:
        update_wrapper(self, module.forward)
        self.own, self.set_before = module.forward, "forward" in vars(module)
        self.users: list[object] = []
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _forwards.get().get(self._module, self.own)(*args, **kwargs)

    @classmethod
    def of(cls, module: nn.Module, user: object) -> _StandIn:
        """The module's stand-in, put in place for a first user."""
        stand_in = vars(module).get("forward")
        if not isinstance(stand_in, cls):
            stand_in = cls(module)
        stand_in.users.append(user)
        vars(module)["forward"] = stand_in
        return stand_in


def _set_back(module: nn.Module, user: object) -> None:
    """Take the module's stand-in away with its last user."""
    stand_in = vars(module).get("forward")
    if not isinstance(stand_in, _StandIn):
        return
    stand_in.users = [other for other in stand_in.users if other is not user]
    if stand_in.users:
        return
    if stand_in.set_before:
        vars(module)["forward"] = stand_in.own
    else:
        del vars(module)["forward"]


def _refuse_what_cannot_be_followed(module: nn.Module) -> None:
    if "_orig_mod" in module._modules:
        raise UnsupportedModelError(
            "The forward function runs a compiled model, of which only what goes in and comes out is seen: let it run "
            "the one that torch.compile was given (compiled._orig_mod)."
        )
    if any(weight is not None and is_lazy(weight) for weight in module._parameters.values()):
        raise ValueError(
            f"A {type(module).__name__} of the model gets its weights in a first pass: run the model once before."
        )
    if not module.training:
        return
    if isinstance(module, nn.modules.dropout._DropoutNd):
        refuse_dropout(module.p)
    if getattr(module, "gradient_checkpointing", False):
        raise ValueError(
            "The model is in training mode with gradient checkpointing: for its gradient it would run again, unwatched."
            " Call model.eval() or model.gradient_checkpointing_disable() first."
        )


def refuse_dropout(probability: float) -> None:
    """Raise where something is about to be dropped at random."""
    if probability > 0:
        raise ValueError(
            "The model is in training mode and drops out at random: its output is not a function of its input. "
            "Call model.eval() first."
        )
