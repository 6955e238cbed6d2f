"""Functions that run in place of modules' ``forward``, in one thread, while a function is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from functools import partial, update_wrapper
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from captum_attattr.attention.undoing import Undo, one_at_a_time, undoing

T = TypeVar("T")

Forward = Callable[..., Any]

_forwards: ContextVar[Mapping[nn.Module, Forward]] = ContextVar("captum_attattr_forwards", default=MappingProxyType({}))
"""What modules run in place of their forward, in this thread."""


def in_place_of_forward(makers: Mapping[nn.Module, Callable[[Forward], Forward]], function: Callable[[], T]) -> T:
    """Call a function while these modules run something else, in this thread; other threads run them as they are.

    Args:
        makers: By module, the function that makes what it runs, from what it would run otherwise.
        function: The function.
    """

    def replaced(undo: list[Undo]) -> T:
        forwards = dict(_forwards.get())
        for module, make in makers.items():
            undo.append(partial(one_at_a_time, partial(_uninstall, module, forwards)))
            own = forwards.get(module) or one_at_a_time(partial(_StandIn.install, module, forwards)).own
            forwards[module] = make(own)
        return copy_context().run(_with_forwards, forwards, function)

    return undoing(replaced)


def in_place_everywhere(module: nn.Module, make: Callable[[Forward], Forward], user: object) -> None:
    """Let a module run something else in all threads, until :func:`in_place_no_more`."""

    def install() -> None:
        stand_in = _StandIn.install(module, user)
        stand_in.everywhere = stand_in.everywhere or make(stand_in.own)

    one_at_a_time(install)


def in_place_no_more(module: nn.Module, user: object) -> None:
    """Undo :func:`in_place_everywhere` for this user; nothing happens if it is undone already."""
    one_at_a_time(partial(_uninstall, module, user))


def _with_forwards(forwards: Mapping[nn.Module, Forward], function: Callable[[], T]) -> T:
    _forwards.set(forwards)
    return function()


class _StandIn:
    """A module's ``forward`` while a replay uses the module; in all other threads it calls the module's own forward."""

    def __init__(self, module: nn.Module) -> None:
        update_wrapper(self, module.forward)
        self.own, self.set_before = module.forward, "forward" in vars(module)
        self.users: list[object] = []
        self.everywhere: Forward | None = None
        """What the module runs in all threads that have nothing of their own."""
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _forwards.get().get(self._module, self.everywhere or self.own)(*args, **kwargs)

    @classmethod
    def install(cls, module: nn.Module, user: object) -> _StandIn:
        """Return the module's stand-in, set in place for its first user, and add this user to it."""
        stand_in = vars(module).get("forward")
        if not isinstance(stand_in, cls):
            stand_in = cls(module)
        stand_in.users.append(user)
        vars(module)["forward"] = stand_in
        return stand_in


def _uninstall(module: nn.Module, user: object) -> None:
    """Remove this user from the module's stand-in, and with the last user the stand-in itself."""
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
