"""One replay for several layers: in each row (an example at a point of a path) the attention of one is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.engine.layer_state import LayerState

Substitute = Callable[[AttentionCall], Tensor]
"""A function that makes the context (rows, query, head, dim) to use in place of an attention call's own."""


class Part(NamedTuple):
    """The rows of one layer."""

    state: LayerState
    examples: Tensor
    """(R,), the example of each row; there may be none."""
    context: Tensor
    """(R, query, head, dim), in place of the layer's own."""


class Joining:
    """The rows of a replay, those of the lowest layer first.

    Args:
        parts: By layer, from the lowest up.

    Attributes:
        rows: The example of each row.
        ranges: By attention call, its layer's rows.
        contexts: After the replay, by attention call: the context of the rows that ran, where gradients are taken.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self.rows = torch.cat([part.examples for part in parts])
        self.ranges: dict[int, slice] = {}
        self.contexts: dict[int, Tensor] = {}
        start = 0
        for part in parts:
            self.ranges[part.state.index] = slice(start, start + len(part.examples))
            start += len(part.examples)

    @property
    def first(self) -> int:
        """The lowest attention call."""
        return self._parts[0].state.index

    @property
    def starts(self) -> dict[int, int]:
        """By attention call, the number of rows that belong to lower layers."""
        return {index: rows.start for index, rows in self.ranges.items()}

    def substitutes(self) -> dict[int, Substitute]:
        """Return what puts the contexts in place, by attention call."""
        return {part.state.index: partial(self._context, part) for part in self._parts}

    def _context(self, part: Part, call: AttentionCall) -> Tensor:
        """Return the context of all rows that run.

        It is computed for rows of lower layers, given for this layer's rows, and for rows of higher layers that of the
        clean pass.
        """
        mine, running = self.ranges[part.state.index], call.shape[0]
        contexts = [part.context]
        if mine.start:
            # These rows alone, so that the call does not count as computed for the others, whose weights are unknown.
            lower = call if mine.start == running else call.select(torch.arange(mine.start, device="cpu"))
            contexts.insert(0, lower.proceed()[0])
        if mine.stop < running:
            contexts.append(part.state.context[self.rows[mine.stop : running]])
        contexts = [context for context in contexts if len(context)]
        context = torch.cat(contexts) if len(contexts) > 1 else contexts[0]
        if torch.is_grad_enabled() and not context.requires_grad:
            context.requires_grad_()
        self.contexts[part.state.index] = context
        return context
