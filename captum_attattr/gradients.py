"""What a pass leaves for its gradient, and what it must not ask a gradient of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captum_attattr.attention import UnsupportedModelError


@contextmanager
def without_parameter_gradients(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Parameters need no gradient inside the block; each is set back to what it was."""
    # By name: where weights are offloaded, a parameter is another object after each pass.
    places = [
        (module, name)
        for root in roots
        for module in root.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]

    def require(gradients: bool) -> None:
        for module, name in places:
            getattr(module, name).requires_grad_(gradients)

    try:
        require(False)
        yield
    finally:
        require(True)


@contextmanager
def saved_bytes(roots: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """Sizes of what autograd keeps inside the block, by storage, the model's own weights left out."""
    weights = {_address(parameter) for root in roots for parameter in root.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address not in weights:
            sizes[address] = tensor.untyped_storage().nbytes()
        # The tensor itself, kept by the operation that made it (softmax, tanh), would be a cycle never to be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a quantized weight is a wrapper without a storage of its own
        return 0


def refuse_without_derivative(output: Tensor) -> None:
    """Raise where the graph holds an operation that torch cannot differentiate, and would pass over with a warning."""
    seen, open_nodes = set(), [output.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        if "NotImplemented" in node.name():
            raise UnsupportedModelError(
                "The model computes with operations that have no derivative, as quantized ones often do: load it "
                "unquantized, or quantized by a method that keeps float activations (weights only)."
            )
        seen.add(node)
        open_nodes.extend(parent for parent, _ in node.next_functions)
