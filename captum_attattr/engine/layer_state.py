"""One attention layer's call in the clean pass, from which its attention probabilities are computed when needed.

No (query, key) matrix is kept: the model's own eager attention function computes the probabilities for a range of
queries at a time, so that memory grows with the number of tokens and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from captum_attattr.attention import AttentionCall, UnsupportedModelError

# Bytes of a block: on a CPU it should fit the caches; a GPU needs larger ones to be busy.
_CPU_BLOCK_BYTES = 8 * 2**20
_GPU_BLOCK_BYTES = 256 * 2**20
ALL = slice(None)


@dataclass(frozen=True)
class LayerState:
    """One attention call of the clean pass. B examples, H heads, Q queries, K keys, D dimensions."""

    index: int
    """Its index among all attention calls of the pass."""
    call: AttentionCall
    context: Tensor
    """(B, Q, H, D), as the model computed it."""
    values: Tensor
    """(B, H, K, D), repeated for grouped heads."""
    attends: Tensor
    """(B, Q, 1 or H, 1): whether a query may look at any key."""
    reach: Tensor
    """(Q,): the number of keys up to the last one that a query of any example may look at."""

    @property
    def name(self) -> str:
        """The layer's class, for messages."""
        return type(self.call.module).__name__

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Q, K) of the layer's attention."""
        return self.call.shape

    def lengths(self) -> Tensor:
        """Count the keys that the last query may look at, in all heads: the lengths of the examples, (B,)."""
        last = slice(self.shape[2] - 1, self.shape[2])
        return self.pairs(last).sum((1, 2, 3))

    def blocks(self) -> Iterator[slice]:
        """Yield ranges of queries such that the matrix of each has a moderate size."""
        batch, heads, queries, keys = self.shape
        most = _CPU_BLOCK_BYTES if self.context.device.type == "cpu" else _GPU_BLOCK_BYTES
        width = max(1, most // (4 * batch * max(heads, 1) * keys))
        for start in range(0, queries, width):
            yield slice(start, min(start + width, queries))

    def select(self, examples: Tensor) -> LayerState:
        """Return the state of some of the examples."""
        return LayerState(
            self.index,
            self.call.select(examples),
            self.context[examples],
            self.values[examples],
            self.attends[examples],
            self.reach,
        )

    def keys(self, queries: slice) -> int:
        """Return the number of first keys beyond which none of these queries may look."""
        return max(1, int(self.reach[queries].max()))

    def probabilities(self, queries: slice = ALL, keys: int | None = None) -> Tensor:
        """Compute the attention probabilities of these queries, (B, H, queries, first keys)."""
        with torch.no_grad():
            return self._part(queries, keys).probabilities()

    def pairs(self, queries: slice = ALL, keys: int | None = None) -> Tensor:
        """Return which pairs count, (B, 1 or H, queries, first keys); see :meth:`AttentionCall.pairs`."""
        return self._part(queries, keys).pairs()

    def _part(self, queries: slice, keys: int | None) -> AttentionCall:
        return self.call.narrowed(queries).first_keys(self.shape[3] if keys is None else keys)


def layer_state(call: AttentionCall, context: Tensor, index: int) -> LayerState:
    """Make the state of a call and check that its probabilities times its values are the layer's context.

    Raises:
        ValueError: A sequence is all padding, or the layer computes NaN or infinite values.
        UnsupportedModelError: The probabilities do not reproduce the context.
    """
    none = torch.empty(0, device="cpu")
    state = _with_pairs(LayerState(index, call, context, call.values(), none, none))
    own = torch.zeros_like(context)
    for block in state.blocks():
        keys = state.keys(block)
        probabilities = state.probabilities(block, keys)
        with torch.autocast(context.device.type, enabled=False):
            product = probabilities.float() @ state.values[:, :, :keys].float()
        own[:, block] = product.transpose(1, 2).to(context.dtype)
    empty = ~state.attends.flatten(1).any(1)
    if empty.any() and not context[empty].isnan().all():
        raise ValueError(
            f"Example {int(empty.nonzero()[0])} of the batch is all padding: no token of it may attend to any other."
        )
    # The context of queries that may look at no key does not matter.
    own, used = torch.where(state.attends, own, 0), torch.where(state.attends, context, 0)
    if empty.any() or not bool(torch.isfinite(used).all()):
        raise ValueError(f"{state.name} computes NaN or infinite values: there is nothing to attribute.")
    if not agree(own, used, 1 / 2):
        raise UnsupportedModelError(
            f"The attention probabilities of {state.name} do not reproduce what it computes with {call.way}."
        )
    return state


def _with_pairs(state: LayerState) -> LayerState:
    """Fill in what is known from the pairs that count."""
    attends, reach, numbers = [], [], torch.arange(1, state.shape[3] + 1, device=state.context.device)
    for block in state.blocks():
        pairs = state.pairs(block)
        attends.append(pairs.any(-1))
        reach.append((pairs.flatten(0, 1).any(0) * numbers).amax(-1))
    return replace(state, attends=torch.cat(attends, -1).transpose(1, 2).unsqueeze(-1), reach=torch.cat(reach).cpu())


def tensors_of(call: AttentionCall) -> list[tuple[str, Tensor, int]]:
    """Return the tensors that a call keeps, each with its layer's class and with how often it was written to."""
    kept = [getattr(call, field.name) for field in fields(call)]
    name = type(call.module).__name__
    return [(name, one, one._version) for one in kept if isinstance(one, Tensor) and not one.is_inference()]


def refuse_written(tensors: Sequence[tuple[str, Tensor, int]]) -> None:
    """Raise an error if one of these tensors was written to since.

    Raises:
        UnsupportedModelError: A layer's probabilities, values, queries or keys are not what they were.
    """
    for name, tensor, version in tensors:
        if tensor._version != version:
            raise UnsupportedModelError(
                f"The model writes into tensors that the attention of {name} was computed from, after it used them (a "
                "buffer that layers share, an operation in place): they cannot be kept for the path."
            )


def precision(*dtypes: torch.dtype) -> float:
    """Return the distance from 1 to the next number in the coarsest of these data types and float32."""
    floating = [dtype for dtype in (*dtypes, torch.float32) if dtype.is_floating_point]
    return max(torch.finfo(dtype).eps for dtype in floating)


def agree(one: Tensor, other: Tensor, digits: float, computed_in: torch.dtype = torch.float32) -> bool:
    """Whether two tensors agree up to rounding: to the fraction ``digits`` of the digits of their data type.

    Agreement to the digits of float32 suffices for all types, since many models compute the softmax or the norms in it.
    """
    if not other.is_floating_point() or other.numel() == 0:  # a layer without heads has an empty context
        return torch.equal(one, other)
    error = precision(other.dtype, computed_in) ** digits
    return torch.allclose(one, other, rtol=error, atol=error * float(other.abs().max()))
