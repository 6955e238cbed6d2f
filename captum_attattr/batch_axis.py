"""Where a pass keeps its examples: seen in a second pass with another number of rows, not guessed from sizes.

A first dimension of the size of the batch may be something else (a bias of one query, when one example is given), and
one of another size may hold the examples (the choices, windows or images of each, one example after the other). In a
second pass, of one row of a batch or of two of the only example, what belongs to the examples has grown or shrunk in
proportion; the rest is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from captum_attattr.attention import UnsupportedModelError
from captum_attattr.forward import Forward
from captum_attattr.layer_state import LayerState, agree
from captum_attattr.module_calls import EndedCall, ModuleCalls


@dataclass(frozen=True)
class BatchAxis:
    """What a second pass told."""

    follows: Sequence[Sequence[bool]] | None
    """By module call and tensor of its output: whether its first dimension has each example's rows, one example after
    the other, and is not shared by them all. None where it is not known."""
    one_by_one: bool
    """Whether only one row can be run at a time: with two of them the forward function does not give one output each,
    or its attention does not follow."""

    def rows_of(self, call: EndedCall, rows: Tensor, batch_size: int) -> Any:
        """What a module call gave for these rows of the batch, with repetition."""
        leaves, form = tree_flatten(call.output)
        known = [] if self.follows is None else self.follows[call.place]
        if len(known) != len(leaves):
            known = [isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch_size for leaf in leaves]
        picked = [
            _picked(leaf, rows, batch_size) if follows else leaf for leaf, follows in zip(leaves, known, strict=True)
        ]
        return tree_unflatten(picked, form)


def other_rows(batch_size: int) -> Tensor:
    """The rows of the second pass."""
    return torch.tensor([0, 0] if batch_size == 1 else [batch_size - 1])


def compare(forward: Forward, first: ModuleCalls, states: Sequence[LayerState], second: SecondPass) -> BatchAxis:
    """What two passes tell together.

    Raises:
        UnsupportedModelError: The attention of a layer does not have the rows of the batch, in their order.
    """
    batch, rows = forward.batch_size, other_rows(forward.batch_size)
    known = None
    if first.begun == second.calls.begun:
        known = [
            [
                size > 0 and size % batch == 0 and size * len(rows) == other * batch
                for size, other in zip(sizes, others, strict=False)
            ]
            for sizes, others in zip(first.sizes, second.calls.sizes, strict=True)
        ]
    follows = second.output.dim() > 0 and len(second.output) == len(rows)
    for state in states:
        context = second.contexts.get(state.index)
        if context is not None and not _follows(state, context, rows):
            if batch > 1:
                raise UnsupportedModelError(_other_sizes(state, len(context), rows, batch))
            follows = False
    return BatchAxis(known, one_by_one=batch == 1 and not follows)


@dataclass
class SecondPass:
    """The pass with other rows: its module calls, its output, and contexts by place among the attention calls."""

    calls: ModuleCalls
    output: Tensor
    contexts: dict[int, Tensor]


def refuse_other_sizes(attention: int, name: str, rows: int) -> None:
    """Raise where the attention's rows cannot be those of the examples."""
    if attention % rows or not attention:
        raise UnsupportedModelError(
            f"The attention of {name} is computed for {attention} rows where the forward function was given {rows} "
            "examples: which row belongs to which example is not known. Give one example at a time, or what has one "
            "row for each of the attention's as inputs."
        )


def refuse_standing(forward: Forward, error: Exception) -> None:
    """Raise, for the error of a pass with other rows, where arguments that do not follow the examples explain it."""
    if forward.standing:
        raise UnsupportedModelError(
            f"The forward function was given {forward.batch_size} examples, and further tensors of "
            f"{', '.join(map(str, forward.standing))} rows, which are no example's, and it does not run on one example "
            f"with them ({type(error).__name__}: {error}). Give one example at a time."
        ) from error


def _other_sizes(state: LayerState, found: int, rows: Tensor, batch: int) -> str:
    windows = state.call.windows
    return (
        f"The attention of {state.name} is computed for {batch * windows} rows where the forward function was given "
        f"{batch} examples, and for {found} rows on {len(rows)} of them: these are not {windows} rows of each, one "
        "example after the other. Give one example at a time."
    )


def _follows(state: LayerState, context: Tensor, rows: Tensor) -> bool:
    windows = state.call.windows
    if len(context) != len(rows) * windows:
        return False
    if windows == 1:  # whether rows are moved in other ways is for the replay to find out
        return True
    attends = state.attends[rows]
    ours, clean = torch.where(attends, state.call.fold(context), 0), torch.where(attends, state.context[rows], 0)
    return agree(ours, clean, 1 / 2)


def _picked(value: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    entries = len(value) // batch_size
    grouped = value if entries == 1 else value.unflatten(0, (-1, entries))
    if batch_size == 1:
        grouped = grouped.expand(len(rows), *grouped.shape[1:])  # no copy
    else:
        grouped = grouped.index_select(0, rows.to(value.device))
    return grouped if entries == 1 else grouped.flatten(0, 1)
