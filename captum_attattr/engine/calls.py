"""The attention calls of a pass that are recorded, by the layers that make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from torch import nn

from captum_attattr.engine.layer_state import LayerState


class Calls(ABC):
    """A choice of attention calls; an object serves for one pass."""

    layers: list[nn.Module]
    """The layers that make the calls."""

    @abstractmethod
    def wants(self, layer: nn.Module) -> bool:
        """Whether the call that this layer makes now is one of them."""

    @abstractmethod
    def arranged(self, states: Sequence[LayerState]) -> list[LayerState]:
        """Return the states of these calls in the order that was asked for.

        Args:
            states: Those of the calls that were wanted, in the order in which they ran.

        Raises:
            ValueError: A call was not made.
        """


class Listed(Calls):
    """All calls of some layers, in the order in which the layers are listed.

    Args:
        layers: The layers; one that is listed n times stands for its n calls.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = list(layers)

    def wants(self, layer: nn.Module) -> bool:
        """See :meth:`Calls.wants`."""
        return layer in self.layers

    def arranged(self, states: Sequence[LayerState]) -> list[LayerState]:
        """See :meth:`Calls.arranged`."""
        listed, met = Counter(self.layers), Counter(state.call.module for state in states)
        _refuse_unreached([layer in met for layer in self.layers], self.layers)
        for layer, count in met.items():
            if count != listed[layer]:
                raise ValueError(
                    f"{type(layer).__name__} runs {count} times in one pass (shared weights) and is listed "
                    f"{listed[layer]} times: list it once for each of its calls, layer=[attention] * {count}."
                )
        queues = {layer: iter([state for state in states if state.call.module is layer]) for layer in met}
        return [next(queues[layer]) for layer in self.layers]


class InOrder(Calls):
    """Some or all calls of some layers, in the order in which they run.

    Args:
        layers: The layers.
        numbers: Numbers of the calls, from 0; None for all of them.

    Attributes:
        met: The layers of all calls, in the order in which they ran.
    """

    def __init__(self, layers: Sequence[nn.Module], numbers: Sequence[int] | None = None) -> None:
        self.layers, self._numbers = list(layers), None if numbers is None else list(numbers)
        self.met: list[nn.Module] = []

    @property
    def numbers(self) -> list[int]:
        """Numbers of the calls, after the pass."""
        return list(range(len(self.met))) if self._numbers is None else self._numbers

    def wants(self, layer: nn.Module) -> bool:
        """See :meth:`Calls.wants`."""
        if layer not in self.layers:
            return False
        self.met.append(layer)
        return self._numbers is None or len(self.met) - 1 in self._numbers

    def arranged(self, states: Sequence[LayerState]) -> list[LayerState]:
        """See :meth:`Calls.arranged`."""
        if not self.met:
            _refuse_unreached([False] * len(self.layers), self.layers)
        if any(not 0 <= number < len(self.met) for number in self.numbers):
            raise ValueError(f"layers {self.numbers} do not all exist: the model has layers 0 to {len(self.met) - 1}.")
        in_order = dict(zip(sorted(self.numbers), states, strict=True))
        return [in_order[number] for number in self.numbers]


def _refuse_unreached(reached: Sequence[bool], layers: Sequence[nn.Module]) -> None:
    if all(reached):
        return
    missing = [place for place, is_reached in enumerate(reached) if not is_reached]
    kinds = ", ".join(dict.fromkeys(type(layers[place]).__name__ for place in missing))
    raise ValueError(
        f"The forward function reached {sum(reached)} of the {len(layers)} given layers. It never reached the "
        f"attention of {', '.join(map(str, missing))} ({kinds}), counted from 0. Is each a layer of the model that the "
        "forward function runs, on the inputs that it was given? attention_layers(model) lists those of all its parts; "
        f"those reached are {[place for place, is_reached in enumerate(reached) if is_reached]}. Models wrapped in "
        "DataParallel run copies of their layers: give the model itself."
    )
