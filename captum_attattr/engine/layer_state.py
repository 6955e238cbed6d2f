"""What one attention layer did in the clean pass, with its matrix computed again when it is asked for.

No (query, key) matrix is kept: probabilities are made from query and key for as many queries at a time as are
wanted, by the family's own eager function, so that memory grows with the length and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_attattr.attention import AttentionCall, UnsupportedModelError

_BLOCK_BYTES = 64 * 2**20
ALL = slice(None)


@dataclass(frozen=True)
class LayerState:
    """One attention call of the clean pass. B examples, H heads, Q queries, K keys, D dimensions."""

    index: int
    """Its place among all attention calls of the pass."""
    call: AttentionCall
    context: Tensor
    """(B, Q, H, D), as the model used it."""
    values: Tensor
    """(B, H, K, D), grouped heads repeated."""
    attends: Tensor
    """(B, Q, 1 or H, 1): queries that may look at any key."""

    @property
    def name(self) -> str:
        """Class of the layer, for messages."""
        return type(self.call.module).__name__

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Q, K) of the layer's attention."""
        return self.call.shape

    def blocks(self) -> Iterator[slice]:
        """Ranges of queries whose matrices together are of moderate size."""
        batch, heads, queries, keys = self.shape
        width = max(1, _BLOCK_BYTES // (4 * batch * max(heads, 1) * keys))
        for start in range(0, queries, width):
            yield slice(start, min(start + width, queries))

    def of(self, examples: Tensor) -> LayerState:
        """The same for some of the examples."""
        return LayerState(
            self.index, self.call.of(examples), self.context[examples], self.values[examples], self.attends[examples]
        )

    def probabilities(self, queries: slice = ALL) -> Tensor:
        """Attention probabilities of these queries, (B, H, queries, K)."""
        with torch.no_grad():
            return self.call.narrowed(queries).probabilities()

    def pairs(self, queries: slice = ALL) -> Tensor:
        """(B, 1 or H, queries, K): which pairs count; see :meth:`AttentionCall.pairs`."""
        return self.call.narrowed(queries).pairs()


def layer_state(call: AttentionCall, context: Tensor, index: int) -> LayerState:
    """The state after a call, made sure that its probabilities explain the context that the layer computed.

    Raises:
        ValueError: A sequence is all padding, or the layer computes no finite numbers.
        UnsupportedModelError: Probabilities times values are not what the layer computed.
    """
    state = LayerState(index, call, context, call.values(), torch.empty(0))
    attends = torch.cat([state.pairs(block).any(-1) for block in state.blocks()], -1)
    state = replace(state, attends=attends.transpose(1, 2).unsqueeze(-1))
    own = torch.zeros_like(context)
    for block in state.blocks():
        probabilities = state.probabilities(block)
        with torch.autocast(context.device.type, enabled=False):
            product = probabilities.float() @ state.values.float()
        own[:, block] = product.transpose(1, 2).to(context.dtype)
    empty = ~state.attends.flatten(1).any(1)
    if empty.any():
        raise ValueError(
            f"Example {int(empty.nonzero()[0])} of the batch is all padding: no token of it may attend to any other."
        )
    # Only queries that may look at any key: what the model computes for others is of no concern.
    own, used = torch.where(state.attends, own, 0), torch.where(state.attends, context, 0)
    if not bool(torch.isfinite(used).all()):
        raise ValueError(f"{state.name} computes NaN or infinite values: there is nothing to attribute.")
    if not agree(own, used, 1 / 2):
        raise UnsupportedModelError(
            f"The attention probabilities of {state.name} do not reproduce what it computes with "
            f"attn_implementation={call.implementation!r}. Load the model with attn_implementation='eager'."
        )
    return state


def agree(one: Tensor, other: Tensor, digits: float, computed_in: torch.dtype = torch.float32) -> bool:
    """Agreement to this part of the digits of the data type: rounding passes, another computation does not.

    Of float32 at most: many families take the softmax or the norms in it, whatever the model's own type.
    """
    if not other.is_floating_point() or other.numel() == 0:  # nothing in a layer without heads
        return torch.equal(one, other)
    error = max(torch.finfo(dtype).eps for dtype in (other.dtype, computed_in, torch.float32)) ** digits
    return torch.allclose(one, other, rtol=error, atol=error * float(other.abs().max()))
