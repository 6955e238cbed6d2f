"""All backends: watch the attention calls of layers, replace their contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from torch import nn

from captum_attattr.attention.backend import Backend
from captum_attattr.attention.call import Handler
from captum_attattr.attention.torch_functions import TorchFunctions
from captum_attattr.attention.transformers_interface import TransformersInterface

T = TypeVar("T")

BACKENDS: tuple[Backend, ...] = (TransformersInterface(), TorchFunctions())
"""The last one takes what no other holds."""


def backend_of(module: nn.Module) -> Backend | None:
    """Return the backend of an attention layer: the first that holds it; None if the module is none."""
    return next((backend for backend in BACKENDS if backend.holds(module)), None)


def refuse_out_of_reach(layers: Iterable[nn.Module]) -> None:
    """Raise an error if the attention of these layers cannot be watched as the model is set up.

    Raises:
        UnsupportedModelError: Their attention gives no probabilities, or does not go through the interface.
    """
    for layer in layers:
        backend = backend_of(layer)
        if backend is not None:
            backend.refuse_out_of_reach(layer)


def intercepted(layers: Iterable[nn.Module], handler: Handler, function: Callable[[], T]) -> T:
    """Call a function in which every attention call of the models that hold ``layers`` goes to ``handler``.

    See :meth:`Backend.watching`.
    """
    layers = list(layers)
    refuse_out_of_reach(layers)
    for backend in BACKENDS:
        held = [layer for layer in layers if backend_of(layer) is backend]
        if held:
            function = partial(backend.watching, held, handler, function)
    return function()
