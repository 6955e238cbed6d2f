"""The user's forward function with its arguments, which can be run on any choice of examples.

Captum's private functions for the forms of inputs, arguments and targets are used in this module only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_tensor_into_tuples,
    _run_forward,
    _select_targets,
)
from captum._utils.typing import TargetType
from torch import Tensor, nn

# Caches of keys and values (past_key_values) are recognised by this method.
_CACHE = "batch_select_indices"


def take_rows(value: Any, rows: Tensor, batch_size: int) -> Any:
    """Return the given rows of a tensor that has one row an example; anything else is returned as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != batch_size:
        return value
    if batch_size == 1:
        return value.expand(len(rows), *value.shape[1:])  # no copy
    return value.index_select(0, rows.to(value.device))


def _copied(cache: Any, rows: Tensor | None) -> Any:
    """Copy a cache of keys and values for these rows, since every pass writes to its cache."""
    try:
        cache = copy.deepcopy(cache)
    except RuntimeError as error:
        raise ValueError(
            "The cache of keys and values (past_key_values) requires a gradient and cannot be copied for each pass: "
            "compute it under torch.no_grad()."
        ) from error
    if rows is not None:
        try:
            getattr(cache, _CACHE)(rows)
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"Rows of a {type(cache).__name__} (past_key_values) cannot be picked one by one: give a DynamicCache."
            ) from error
    return cache


def uncompiled(function: Any) -> Any:
    """Return the model or function that ``torch.compile`` was given: it computes the same, and can be watched."""
    for name in ("_orig_mod", "_torchdynamo_orig_callable"):
        if hasattr(function, name):
            return getattr(function, name)
    return function


def _plain(value: Any) -> Any:
    """Return a tensor without history, which autograd accepts even if it was made in inference mode."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()


class Forward:
    """A forward function and one batch of arguments for it.

    Args:
        forward_func: A model, or any function of the inputs that runs one. Of a model output of transformers the
            ``logits`` are taken. Of a compiled model the original is run.
        inputs: A tensor, or a tuple of tensors, with the examples along dimension 0.
        additional_forward_args: As in Captum: one more argument, or a tuple of them, of any type. Tensors with one row
            an example follow the examples, as do caches of keys and values, of which each pass gets a copy; everything
            else is passed as it is.
    """

    def __init__(self, forward_func: Callable[..., Any], inputs: Any, additional_forward_args: Any = None) -> None:
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        if not tensors or not all(isinstance(tensor, Tensor) and tensor.dim() > 0 for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise TypeError(f"inputs must be a tensor or a tuple of tensors with a batch dimension, got {kinds}.")
        self.inputs: tuple[Tensor, ...] = tuple(_plain(value) for value in _format_tensor_into_tuples(inputs))
        if any(tensor.layout != torch.strided for tensor in self.inputs):
            raise ValueError("inputs must be dense tensors, got a sparse one: give tensor.to_dense().")
        self.batch_size = self.inputs[0].shape[0]
        if self.batch_size == 0 or any(tensor.shape[0] != self.batch_size for tensor in self.inputs):
            sizes = [tensor.shape[0] for tensor in self.inputs]
            raise ValueError(f"inputs need the same number of examples, at least one; got {sizes}.")
        if any(tensor.numel() == 0 for tensor in self.inputs):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in self.inputs)
            raise ValueError(f"inputs are empty, of shape {shapes}: an example needs at least one token.")
        self.arguments: tuple[Any, ...] = tuple(
            _plain(value) for value in _format_additional_forward_args(additional_forward_args) or ()
        )
        self.standing = tuple(
            len(value) for value in self.arguments
            if isinstance(value, Tensor) and value.dim() and len(value) != self.batch_size
        )  # fmt: skip
        """Lengths of the tensors among the arguments that do not follow the examples."""
        self.function = uncompiled(forward_func)
        owner = getattr(self.function, "__self__", None)
        self.owner: nn.Module | None = owner if isinstance(owner, nn.Module) else None
        """The module whose method the forward function is (``model.forward``)."""
        self.all_rows = torch.arange(self.batch_size, device="cpu")

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        """Run the forward function on these rows of the batch, with repetition; on the whole batch by default."""
        inputs, arguments = self.inputs, self.arguments
        arguments = tuple(_copied(value, rows) if hasattr(value, _CACHE) else value for value in arguments)
        if rows is not None:
            inputs = tuple(take_rows(value, rows, self.batch_size) for value in inputs)
            arguments = tuple(take_rows(value, rows, self.batch_size) for value in arguments)
        output = _run_forward(self.function, inputs, additional_forward_args=arguments or None)
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"The forward function must return a tensor, or a model output with logits; got "
                f"{type(output).__name__}. Wrap it: lambda *args: model(*args)[0]."
            )
        if output.is_complex():
            raise TypeError("The forward function must return real numbers, got complex ones: which part is explained?")
        return output

    def scores(self, output: Tensor, target: TargetType, rows: Tensor | None = None) -> Tensor:
        """Return F of each row, (rows,): the target's entry of its output.

        Raises:
            ValueError: The target does not select exactly one number a row, or the output is not finite.
        """
        rows = self.all_rows if rows is None else rows
        if output.dim() == 0 and len(rows) == 1:
            output = output.reshape(1)
        if output.dim() == 0 or output.shape[0] != len(rows):
            raise ValueError(
                f"The forward function must return one output per example: {len(rows)} examples gave the shape "
                f"{tuple(output.shape)}. A single number for the whole batch works for one example at a time only."
            )
        selected = self._select(output, self._target_of(target, rows))
        if selected.numel() != len(rows):
            raise ValueError(
                f"The forward function returns {selected.numel() // len(rows)} numbers per example (output shape "
                f"{tuple(output.shape)}, target {target!r}): choose with target which one to explain."
            )
        selected = selected.reshape(len(rows))
        if not torch.isfinite(selected).all():
            raise ValueError("The forward function returned NaN or infinite values: there is nothing to attribute.")
        return selected

    def _target_of(self, target: TargetType, rows: Tensor) -> TargetType:
        if isinstance(target, Integral):  # numpy's, too
            return int(target)
        if isinstance(target, list) and len(target) == self.batch_size:
            return [target[int(row)] for row in rows]
        if isinstance(target, Tensor) and target.numel() == self.batch_size > 1:
            return target.reshape(-1)[rows.to(target.device)]
        if isinstance(target, list) or (isinstance(target, Tensor) and target.numel() != 1):
            raise ValueError(f"target holds {len(target)} entries for {self.batch_size} examples: give one each.")
        return target

    @staticmethod
    def _select(output: Tensor, target: TargetType) -> Tensor:
        try:
            if isinstance(target, Tensor):
                target = target.to(output.device)
            if output.dim() == 2 and isinstance(target, (list, Tensor)):
                _check_range(target, output.shape[1])
            selected: Tensor = _select_targets(output, target)
            return selected
        except (AssertionError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"target {target!r} does not fit the forward function's output of shape {tuple(output.shape)}: {error}"
            ) from error


def _check_range(target: list[Any] | Tensor, outputs: int) -> None:
    """Raise an IndexError before a GPU reads outside: after that no call on it works in the whole process."""
    if isinstance(target, Tensor) and target.numel() == 1:
        return  # a single number is an index, which is checked on the CPU
    numbers = target.reshape(-1).tolist() if isinstance(target, Tensor) else target
    if any(isinstance(one, Integral) and not 0 <= int(one) < outputs for one in numbers):
        raise IndexError(f"there are {outputs} outputs, numbered from 0")
