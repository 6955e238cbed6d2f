"""Gradients: switched on or off, computed, the memory that a pass keeps for them, and kinks in its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from captum_attattr.attention import UnsupportedModelError
from captum_attattr.attention.undoing import Undo, undoing

P = ParamSpec("P")
T = TypeVar("T")


def with_gradients(on: bool, *, leave_inference: bool | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function to run with gradients on or off, and restore the mode and saved-tensor hooks afterwards.

    They are restored whenever an interrupt comes: torch's own context managers may miss one between the block and its
    end.

    Args:
        on: Whether gradients are on.
        leave_inference: Whether to leave inference mode; by default where gradients are on.
    """
    leave = on if leave_inference is None else leave_inference

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def switched(*args: P.args, **kwargs: P.kwargs) -> T:
            def run(undo: list[Undo]) -> T:
                undo.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
                undo.append(partial(_drop_saving_hooks, _saving_hooks()))
                if leave and torch.is_inference_mode_enabled():
                    stack = ExitStack()
                    undo.append(stack.close)
                    stack.enter_context(torch.inference_mode(False))
                torch.set_grad_enabled(on)
                return function(*args, **kwargs)

            return undoing(run)

        return switched

    return decorated


def _saving_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _drop_saving_hooks(until: Any) -> None:
    while _saving_hooks() not in (until, None):
        torch._C._autograd._pop_saved_tensors_default_hooks()


@contextmanager
def saved_bytes(roots: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """Collect the sizes of the tensors that autograd keeps in the block, by storage, without the model's weights."""
    weights = {_address(parameter) for root in roots for parameter in root.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address not in weights:
            sizes[address] = tensor.untyped_storage().nbytes()
        # Detached: an operation that keeps its own result (softmax, tanh) would form a cycle that is never freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a quantized weight is a wrapper without a storage of its own
        return 0


# Operations whose derivative jumps where one value exceeds another, by the beginning of their names in a graph.
_KINKED = (
    "Abs", "Amax", "Amin", "Aminmax", "Clamp", "Hard", "Kthvalue", "LeakyRelu", "Max", "Median", "Min", "Prelu", "Relu",
    "Rrelu", "Softshrink", "Sort", "Threshold", "Topk",
)  # fmt: skip


def kinks_above(output: Tensor, contexts: Sequence[Tensor]) -> list[bool]:
    """Whether an output's derivative may jump as each of these contexts changes.

    It may where a rectifier, a clamp, a maximum or a similar operation lies between them in the graph.

    Raises:
        UnsupportedModelError: The graph holds an operation that torch cannot differentiate, for which it would only
            give a warning, or one that runs parts of the model again.
    """
    reached: dict[Any, int] = {}
    """By node, the contexts that it depends on, a bit each."""
    starts = {_node(context): 1 << place for place, context in enumerate(contexts)}
    kinked, open_nodes = 0, [output.grad_fn]
    while open_nodes:
        node = open_nodes[-1]
        parents = [] if node is None else [parent for parent, _ in node.next_functions if parent is not None]
        waiting = [parent for parent in parents if parent not in reached]
        if waiting and node not in reached:
            open_nodes += waiting
            continue
        open_nodes.pop()
        if node is None or node in reached:
            continue
        _refuse_without_derivative(node.name())
        reached[node] = starts.get(node, 0)
        for parent in parents:
            reached[node] |= reached[parent]
        if node.name().lstrip("_").startswith(_KINKED):
            kinked |= reached[node]
    return [bool(kinked >> place & 1) for place in range(len(contexts))]


def _node(context: Tensor) -> Any:
    """Return the node of the graph that stands for a tensor; None for one without gradients."""
    if context.grad_fn is not None or not context.requires_grad:
        return context.grad_fn
    return context.view_as(context).grad_fn.next_functions[0][0]  # type: ignore[union-attr]  # it requires a gradient


def _refuse_without_derivative(name: str) -> None:
    if "NotImplemented" in name:
        raise UnsupportedModelError(
            "The model computes with operations that have no derivative, as quantized ones often do: load it "
            "unquantized, or quantized by a method that keeps float activations (weights only)."
        )
    if "Checkpoint" in name:
        raise _checkpointed()


def differentiated(scores: Tensor, contexts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Compute the gradients of the sum of the scores, one for each context.

    Raises:
        ValueError: There are none, or they are not finite.
        UnsupportedModelError: Parts of the model are run again for them.
    """
    gradients: Sequence[Tensor | None] = [None]
    if scores.requires_grad:
        if not all(context.requires_grad for context in contexts):
            raise ValueError(
                "The forward function runs some of the given attention layers without gradients (torch.no_grad, or "
                "torch.utils.checkpoint with use_reentrant=True): there is no gradient to integrate."
            )
        try:
            gradients = torch.autograd.grad(scores.sum(), contexts, allow_unused=True)
        except CheckpointError as error:
            raise _checkpointed() from error
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "The forward function's output does not depend on the attention layer through differentiable operations. "
            "Does it run under torch.no_grad, detach its output, or return a predicted class?"
        )
    found = tuple(torch.zeros_like(c) if g is None else g for g, c in zip(gradients, contexts, strict=True))
    if not all(bool(torch.isfinite(gradient).all()) for gradient in found):
        raise ValueError(
            "A gradient on the path is NaN or infinite. Half precision may be too narrow for this model: try float32."
        )
    return found


def _checkpointed() -> UnsupportedModelError:
    return UnsupportedModelError(
        "The forward function runs parts of the model again for their gradient (torch.utils.checkpoint), where their "
        "attention is not watched. Leave the checkpoints out: a run has as many rows as fit memory anyway."
    )


def refuse_inference_weights(roots: Sequence[nn.Module]) -> None:
    """Raise ValueError if the model was made under ``torch.inference_mode``: no gradient passes through it."""
    if any(weight.is_inference() for root in roots for weight in root.parameters()):
        raise ValueError(
            "The model was made under torch.inference_mode, so that torch refuses gradients through its weights: load "
            "it outside of it (torch.no_grad does no harm)."
        )
