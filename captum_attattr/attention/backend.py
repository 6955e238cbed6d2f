"""The interface of a backend: one way in which models compute attention, and how it is found, watched and replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, TypeVar

from torch import nn

from captum_attattr.attention.call import AttentionCall, Handler, Mask, Result

T = TypeVar("T")

masks: dict[int, Mask] = {}
"""Functions that set ``off`` in every attention call, in all threads and before any handler gets the call.

Contexts that handlers put in place are switched off as well, so that the model runs without these heads.
"""


class Backend(ABC):
    """One way in which models compute attention. To add one, subclass it and list the subclass in ``backends``."""

    without_heads: ClassVar[bool] = False
    """Whether this process has had a layer that lost all its heads to pruning: fused kernels may not stand that."""

    @abstractmethod
    def holds(self, module: nn.Module) -> bool:
        """Whether a module is an attention layer that computes its attention in this way."""

    @abstractmethod
    def refuse_out_of_reach(self, layer: nn.Module) -> None:
        """Raise :class:`UnsupportedModelError` if the layer's attention cannot be watched as the model is set up."""

    @abstractmethod
    def watching(self, layers: Sequence[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
        """Call a function in which every attention call of the models that hold ``layers`` goes to ``handler``.

        The handler may inspect the call, ``proceed()`` with it, and return a context of its own. Of nested handlers the
        innermost gets the call first. Only calls in this thread are handled.
        """

    @abstractmethod
    def masked(self, model: nn.Module, layers: Sequence[nn.Module], mask: Hashable) -> None:
        """Called when heads of a model's layers get masked: their calls go to :meth:`handled`, in all threads."""

    @abstractmethod
    def masked_no_more(self, mask: Hashable) -> None:
        """Called when a mask is removed; a second call does nothing."""

    def handled(self, call: AttentionCall) -> Result:
        """Return the result of a call whose handlers are set: every attention call that is watched ends here."""
        for mask in tuple(masks.values()):
            call = mask(call)
        return call.proceed()
