"""Attention of the clean pass on other values: what the joint path puts in a layer's place.

On the joint path the values V of a layer change at every point, as the layers below are scaled too:

    C(alpha) = C0(alpha) + alpha (A - A0) V(alpha),      C0 = A0 V

With A0 = 0 that is alpha times the model's own attention function on the queries and keys of the clean pass, so that no
matrix is made where the model makes none. Another A0 is a matrix, and so is A - A0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_attattr.attention import AttentionCall
from captum_attattr.attention.call import repeated_row
from captum_attattr.engine.layer_path import LayerPath


class FrozenAttention:
    """A0 and A - A0 of one layer, to be multiplied by values.

    Queries that may look at no key do not count: their context stays that of the clean pass. What a kernel computes for
    them (zero, a mean of all values) differs.

    Args:
        path: The layer's path.
    """

    def __init__(self, path: LayerPath) -> None:
        self.path = path
        self._all_attend = bool(path.state.attends.all())
        self._matrices: tuple[Tensor, Tensor] | None = None
        """A0 and A - A0, where A0 is not zero."""
        if path.start is not None:
            change = path.change()
            self._matrices = path.state.probabilities().to(change) - change, change

    def context(self, call: AttentionCall, alphas: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute C(alpha), with the values of a replay whose lower layers are scaled as well, and (A - A0) V.

        Both are (R, Q, H, D), for examples (R,) at alphas (R,).
        """
        start, slope = self._products(call, examples)
        context = alphas.to(slope).view(-1, 1, 1, 1) * slope
        context = context if start is None else context + start
        if not self._all_attend:
            attends, clean = (one[examples] for one in (self.path.state.attends, self.path.state.context))
            context = torch.where(attends, context, clean.to(context))
            slope = torch.where(attends, slope, 0)
        return context, slope.detach()

    def _products(self, call: AttentionCall, examples: Tensor) -> tuple[Tensor | None, Tensor]:
        """Compute A0 V, None for zero, and (A - A0) V."""
        if self._matrices is None:
            frozen = self.path.state.call
            frozen = frozen if self.path.state.shape[0] == 1 else frozen.select(examples)  # one row serves all
            return None, frozen.with_values_of(call).proceed()[0]
        values = repeated_row(call.values(), len(examples))
        start, change = (_applied(matrices, values, examples) for matrices in self._matrices)
        return start, change


def _applied(matrices: Tensor, values: Tensor, examples: Tensor) -> Tensor:
    """Multiply each example's matrix (H, Q, K) by the values (R, H, K, D) of its rows: (R, Q, H, D)."""
    groups = [(examples == example).nonzero().flatten() for example in examples.unique()]
    products = []
    for rows in groups:
        # All steps of an example side by side in one product, so that its matrix is not repeated.
        columns = values[rows.to(values.device)].permute(1, 2, 0, 3).flatten(2)
        product = matrices[examples[rows[0]]].to(columns.dtype) @ columns
        products.append(product.unflatten(-1, (len(rows), -1)).permute(2, 1, 0, 3))
    return torch.cat(products)[torch.cat(groups).argsort().to(values.device)]
