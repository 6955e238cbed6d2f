"""Recording which module calls have ended at some point of a pass."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch.nn.modules.module as torch_module
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from captum_attattr.attention import UnsupportedModelError
from captum_attattr.attention.undoing import Undo, undoing
from captum_attattr.engine.leaves import leaves_of, leaves_of_arguments, lengths

T = TypeVar("T")


@dataclass
class EndedCall:
    """A module call that has ended, with its output."""

    module: nn.Module
    occurrence: int
    """How many times the module had been called before."""
    place: int
    """Index among all module calls, in the order in which they began."""
    output: Any
    inside: list[nn.Module]
    """The modules that ran inside this call, once for each of their calls."""

    def hands_on(self, steps: Collection[int]) -> bool:
        """Whether its output holds one of these tensors, given by ``id``."""
        return bool(steps) and any(id(leaf) in steps for leaf in leaves_of(self.output)[0])


@dataclass
class _Open:
    """A module call that has not ended yet, and the calls directly inside it that have."""

    module: nn.Module | None
    occurrence: int = 0
    begun: int = 0
    """Number of calls that had begun, this one included."""
    ended: list[EndedCall] = field(default_factory=list)


class ModuleCalls:
    """Follows which modules are called while the clean pass runs, in this thread only.

    Args:
        begins: Called with each outermost module before it runs for the first time.

    Attributes:
        begun: The modules of all calls, in the order in which they began.
        sizes: By module call: the length of each tensor of its output; -1 for anything without a length.
        sizes_in: The same of its arguments, as :func:`leaves_of_arguments` lists them.
        roots: The outermost modules.
    """

    def __init__(self, begins: Callable[[nn.Module], object] = lambda root: None) -> None:
        self._begins = begins
        self._thread = threading.get_ident()
        self._stack = [_Open(None)]
        self._occurrences: Counter[nn.Module] = Counter()
        self.begun: list[nn.Module] = []
        self.sizes: list[list[int]] = []
        self.sizes_in: list[list[int]] = []
        self.roots: list[nn.Module] = []
        self._hooks: list[RemovableHandle] = []

    def following(self, function: Callable[[], T]) -> T:
        """Call a function and follow its module calls."""

        # Hooks for all modules, removed when the function ends: the forward function may be any lambda, so its modules
        # are not known beforehand.
        def followed(undo: list[Undo]) -> T:
            undo.append(self._follow_no_more)
            # As register_module_forward_pre_hook and register_module_forward_hook do it, but with a handle beforehand.
            before, after = torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
            always = torch_module._global_forward_hooks_always_called
            with_kwargs = torch_module._global_forward_hooks_with_kwargs
            entered, left = RemovableHandle(before), RemovableHandle(after, extra_dict=[always, with_kwargs])
            self._hooks += [entered, left]
            always[left.id] = with_kwargs[left.id] = True
            before[entered.id], after[left.id] = self._enter, self._leave
            return function()

        return undoing(followed)

    def _follow_no_more(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def ended(self) -> list[EndedCall]:
        """Return the calls that have ended so far, without those inside another call that has ended."""
        return [ended for call in self._stack for ended in call.ended]

    def running(self) -> tuple[int, ...]:
        """Return the numbers of the calls that have begun and not ended, the outermost first."""
        return tuple(call.begun for call in self._stack)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        _refuse_what_cannot_be_followed(module)
        if len(self._stack) == 1 and module not in self.roots:
            self.roots.append(module)
            self._begins(module)
        self.begun.append(module)
        self.sizes.append([])
        self.sizes_in.append([])
        self._stack.append(_Open(module, self._occurrences[module], len(self.begun)))
        self._occurrences[module] += 1

    def _leave(self, module: nn.Module, args: Any, *given: Any) -> None:
        if threading.get_ident() != self._thread or self._stack[-1].module is not module:
            return
        # After an error torch leaves the keyword arguments out.
        *before, output = given
        kwargs = before[0] if before else {}
        call = self._stack.pop()
        place, inside = call.begun - 1, self.begun[call.begun :]
        leaves, rebuild = leaves_of(output)
        self.sizes[place], self.sizes_in[place] = lengths(leaves), lengths(leaves_of_arguments(args, kwargs)[0])
        # In new containers: models may change the contents of the ones that they returned.
        self._stack[-1].ended.append(EndedCall(module, call.occurrence, place, rebuild(leaves), inside))


def _refuse_what_cannot_be_followed(module: nn.Module) -> None:
    if "_orig_mod" in module._modules:
        raise UnsupportedModelError(
            "The forward function runs a compiled model, whose modules cannot be watched: let it run the model that "
            "torch.compile was given (compiled._orig_mod)."
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
            "The model is in training mode with gradient checkpointing: its backward pass would run modules again, "
            "which cannot be watched. Call model.eval() or model.gradient_checkpointing_disable() first."
        )


def refuse_dropout(probability: float) -> None:
    """Raise an error if dropout is active."""
    if probability > 0:
        raise ValueError(
            "The model is in training mode and drops out at random, so its output is not a function of its input. "
            "Call model.eval() first."
        )
