"""Heads switched off: against a model whose matrices are set to zero by hand, and what is left afterwards."""

from __future__ import annotations

import pytest
import torch
from oracles import injected
from snapshot import untouched
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.masking import mask_heads

__all__ = ["untouched"]

BERT = FAMILIES[0]
HEADS = {0: [1], 2: [0, 3]}
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
implementations = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def by_hand(c, heads, forward=None):
    """The output with the matrices of some heads multiplied by zero."""
    layers = attention_layers(c.model)

    def without(module, matrix):
        factor = torch.ones(matrix.shape[1], dtype=matrix.dtype)
        factor[heads.get(layers.index(module), [])] = 0
        return matrix * factor[:, None, None]

    with injected(c.model, without):
        return (forward or c.forward)(c.inputs, c.mask)


@families
@implementations
def test_masked_equals_matrices_set_to_zero(family, attention, untouched):
    c = case(family, attention=attention)
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        expected = by_hand(c, HEADS)
        with mask_heads(c.model, HEADS):
            masked = c.forward(c.inputs, c.mask)
        clean = c.forward(c.inputs, c.mask)
    assert (clean - expected).abs().max() > 1e-3
    torch.testing.assert_close(masked, expected, atol=family.digits, rtol=0)
