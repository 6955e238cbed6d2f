"""The tensors of a pass that follow the batch, found by a second pass with another number of rows.

Sizes alone do not tell. A first dimension as long as the batch may be something else (one query's bias, in a batch of
one), and one of another length may hold the examples (the choices, windows or images of each, one example after the
other). The second pass runs one row of the batch, or two copies of its only row: the tensors that follow the batch
shrink or grow in proportion, all others keep their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.attention import AttentionCall, Result, UnsupportedModelError, intercepted
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.layer_state import LayerState, agree
from captum_attattr.engine.leaves import leaves_of, leaves_of_arguments, lengths
from captum_attattr.engine.memory import is_out_of_memory
from captum_attattr.engine.module_calls import EndedCall, ModuleCalls


class OtherRowsError(UnsupportedModelError):
    """The rows of an attention are not those of the examples."""


@dataclass(frozen=True)
class BatchAxis:
    """Which arguments and outputs of modules follow the batch, as the second pass showed."""

    follows: Sequence[Sequence[bool]] | None
    """By module call and tensor of its output: whether the first dimension holds the rows of the examples, one example
    after the other. None where it is not known."""
    follows_in: Sequence[Sequence[bool]] | None
    """The same of its arguments."""
    one_by_one: bool
    """Whether only one row can be run at a time: given two, the forward function does not return one output for each,
    or its attention does not follow the batch."""

    def rows_of(self, call: EndedCall, rows: Tensor, batch_size: int) -> Any:
        """Return a module call's output for these rows of the batch, with repetition."""
        leaves, rebuild = leaves_of(call.output)
        known = self.follow(call, leaves)
        if not known:
            known = [isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch_size for leaf in leaves]
        picked = [
            _picked(leaf, rows, batch_size) if follows else leaf for leaf, follows in zip(leaves, known, strict=True)
        ]
        return rebuild(picked)

    def follow(self, call: EndedCall, leaves: Sequence[Any]) -> Sequence[bool]:
        """Return which tensors of a module call's output follow the batch; none of them where it is not known."""
        known = [] if self.follows is None else self.follows[call.place]
        return known if len(known) == len(leaves) else []

    def first_rows(self, call: EndedCall, args: Any, kwargs: Any, count: int, of: int) -> tuple[Any, Any]:
        """Return the arguments of a module call for its first ``count`` of ``of`` rows.

        Raises:
            OtherRowsError: It is not known which of the arguments follow the batch.
        """
        leaves, rebuild = leaves_of_arguments(args, kwargs)
        known = [] if self.follows_in is None else self.follows_in[call.place]
        # An argument that is None here (a mask that forbids nothing) has no length.
        sizes = [size for size, follows in zip(lengths(leaves), known, strict=False) if follows and size >= 0]
        if len(known) != len(leaves) or any(size % of for size in sizes):
            raise OtherRowsError(f"The arguments of {type(call.module).__name__} are not those of the clean pass.")
        some = [
            leaf[: len(leaf) // of * count] if follows and isinstance(leaf, Tensor) else leaf
            for leaf, follows in zip(leaves, known, strict=True)
        ]
        args, kwargs = rebuild(some)
        return args, kwargs


def find_axis(
    forward: Forward, layers: Sequence[nn.Module], states: Sequence[LayerState], first: ModuleCalls
) -> BatchAxis:
    """Run the forward function on other rows and compare with the first pass.

    Raises:
        UnsupportedModelError: The rows of a layer's attention are not those of the batch, in their order.
        ValueError: The forward function adds to a cache of keys and values.
    """
    # Of several examples the shortest: for the longest, models may leave out the mask, as it forbids nothing.
    rows = [0, 0] if forward.batch_size == 1 else [int(states[0].lengths().argmin())]
    try:
        other = _pass_of(torch.tensor(rows, device="cpu"), forward, layers)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _refuse_fixed_indices(error, len(rows), forward.batch_size)
        _refuse_growth(states, _pass_of(forward.all_rows, forward, layers))
        if forward.batch_size == 1:  # it may not take two rows, or has arguments that do not follow the batch
            return BatchAxis(None, None, one_by_one=True)
        _refuse_standing(forward, error)
        return BatchAxis(None, None, one_by_one=False)  # sizes decide then: replays are tested before they are used
    return _compared(forward.batch_size, first, states, torch.tensor(rows, device="cpu"), other)


def by_example(call: AttentionCall, examples: int, wanted: bool) -> AttentionCall:
    """Return the call with ``windows`` set to its number of rows for each example.

    Args:
        call: An attention call.
        examples: Number of examples.
        wanted: Whether the layer is to be explained: then rows that do not fit the examples are an error.
    """
    rows = call.sizes.rows
    if wanted:
        refuse_other_sizes(rows, type(call.module).__name__, examples)
    return replace(call, windows=rows // examples) if rows and rows % examples == 0 else call


@dataclass
class _Pass:
    """A pass of other rows."""

    calls: ModuleCalls
    output: Tensor
    met: list[tuple[int, Tensor]]
    """By attention call: number of keys, and context."""

    def pair_with(self, states: Sequence[LayerState]) -> Iterator[tuple[LayerState, int, Tensor]]:
        """Yield each state with the number of keys and the context that its layer had in this pass."""
        return ((state, *self.met[state.index]) for state in states if state.index < len(self.met))


@with_gradients(False)
def _pass_of(rows: Tensor, forward: Forward, layers: Sequence[nn.Module]) -> _Pass:
    modules, met = ModuleCalls(), list[tuple[int, Tensor]]()

    def record(call: AttentionCall) -> Result:
        result = call.proceed()
        met.append((call.sizes.keys, result[0]))
        return result

    output = modules.following(lambda: intercepted(layers, record, partial(forward, rows)))
    if output.is_cuda:
        torch.cuda.synchronize(output.device)  # errors of a GPU come late: here it is known what caused them
    return _Pass(modules, output, met)


def _compared(batch: int, first: ModuleCalls, states: Sequence[LayerState], rows: Tensor, other: _Pass) -> BatchAxis:
    outputs = arguments = None
    # By type, as some models make a module anew in each pass.
    if [type(module) for module in first.begun] == [type(module) for module in other.calls.begun]:
        outputs = _all_in_proportion(first.sizes, other.calls.sizes, batch, len(rows))
        arguments = _all_in_proportion(first.sizes_in, other.calls.sizes_in, batch, len(rows))
    follows = other.output.dim() > 0 and len(other.output) == len(rows)
    for state, _, context in other.pair_with(states):
        if not _follows(state, context, rows):
            if batch > 1:
                raise UnsupportedModelError(_other_sizes(state, len(context), rows, batch))
            follows = False
    return BatchAxis(outputs, arguments, one_by_one=batch == 1 and not follows)


def refuse_other_sizes(attention: int, name: str, rows: int) -> None:
    """Raise :class:`OtherRowsError` if the number of the attention's rows is no multiple of the number of examples."""
    if attention % rows or not attention:
        raise OtherRowsError(
            f"The attention of {name} is computed for {attention} rows where the forward function was given {rows} "
            "examples, so it is not known which row belongs to which example. Give one example at a time, or inputs "
            "with as many rows as the attention has."
        )


def _refuse_fixed_indices(error: Exception, rows: int, batch: int) -> None:
    """Raise an error if the pass read outside of a tensor on a GPU, where no other attempt can be made."""
    if "device-side assert" in str(error):
        raise ValueError(
            f"The forward function read outside of a tensor when it was run on {rows} row(s) in place of the "
            f"{batch} given: it seems to hold indices that are made for this batch. Make them from its arguments, so "
            "that it runs on any rows. The GPU does not answer this process any more: start Python again."
        ) from error


def _refuse_standing(forward: Forward, error: Exception) -> None:
    """Raise an error if arguments that do not follow the examples explain why a pass of other rows failed."""
    if forward.standing:
        raise UnsupportedModelError(
            f"The forward function was given {forward.batch_size} examples, and further tensors of "
            f"{', '.join(map(str, forward.standing))} rows, which belong to no example. It does not run on one example "
            f"with them ({type(error).__name__}: {error}). Give one example at a time."
        ) from error


def _refuse_growth(states: Sequence[LayerState], again: _Pass) -> None:
    """Raise an error if a second pass of the same rows had another number of keys."""
    for state, keys, _ in again.pair_with(states):
        if keys != state.shape[3]:
            raise ValueError(
                f"The attention of {state.name} had {state.shape[3]} keys in one pass and {keys} in the next, with the "
                "same inputs. Does the forward function hold a cache of keys and values (past_key_values), to which "
                "each pass adds? Give it as one of additional_forward_args: each pass gets a copy."
            )


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
    if windows == 1:  # whether rows keep their order is tested by the replays
        return True
    if context.shape[1] != state.shape[2]:
        return False
    attends = state.attends[rows]
    ours, clean = torch.where(attends, state.call.fold(context), 0), torch.where(attends, state.context[rows], 0)
    return agree(ours, clean, 1 / 2)


def _all_in_proportion(
    sizes: Sequence[Sequence[int]], others: Sequence[Sequence[int]], batch: int, rows: int
) -> list[list[bool]]:
    both = zip(sizes, others, strict=True)
    return [[_in_proportion(*pair, batch, rows) for pair in zip(*call, strict=False)] for call in both]


def _in_proportion(size: int, other: int, batch: int, rows: int) -> bool:
    return size > 0 and size % batch == 0 and size * rows == other * batch


def _picked(value: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    entries = len(value) // batch_size
    grouped = value if entries == 1 else value.unflatten(0, (-1, entries))
    if batch_size == 1:
        grouped = grouped.expand(len(rows), *grouped.shape[1:])  # no copy
    else:
        grouped = grouped.index_select(0, rows.to(value.device))
    return grouped if entries == 1 else grouped.flatten(0, 1)
