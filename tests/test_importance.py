"""Head importance against direct computations in float64, over every form of data, resumed and refused."""

from __future__ import annotations

import pytest
import torch
from oracles import clean_attention, direct_attribution, injected
from tiny_models import FAMILIES, case

from captum_attattr import attention_layers
from captum_attattr.importance import HeadImportance
from captum_attattr.masking import mask_heads
from captum_attattr.measures import MEASURES, AttAttr

BERT = FAMILIES[0]
CLASSIFIERS = [family for family in FAMILIES if family.name in ("bert", "distilbert", "llama", "modernbert", "vit")]
families = pytest.mark.parametrize("family", CLASSIFIERS, ids=lambda family: family.name)
LABELS = [2, 0, 1]


def batch_of(c):
    name = "pixel_values" if c.mask is None else "input_ids"
    return {name: c.inputs, **({} if c.mask is None else {"attention_mask": c.mask})}


def probability(c):
    """Of each example's label, (B,)."""
    return c.forward(c.inputs, c.mask)[range(len(LABELS)), LABELS]


def importance(c, measure, **options):
    found = HeadImportance(c.model, measure=measure, **options)
    found.update(batch_of(c), LABELS)
    return found.compute()


# Each measure against its formula, written out


def attributions(c):
    """One (B, H, T, T) a layer."""
    found = []
    for layer in attention_layers(c.model):
        shares, _ = direct_attribution(c.model, lambda: probability(c), [layer], padding=c.padding)
        found += shares
    return found


def by_attattr(c):
    return [share.amax((-2, -1)) for share in attributions(c)]


def by_attattr_sum(c):
    return [share.sum((-2, -1)).abs() for share in attributions(c)]


def by_attattr_absolute(c):
    return [share.abs().sum((-2, -1)) for share in attributions(c)]


def by_taylor(c):
    """|sum of A * dF/dA| with the matrix itself in the graph."""
    layers, seen = attention_layers(c.model), {}

    def watch(module, attention):
        seen[module] = attention if attention.requires_grad else attention.detach().requires_grad_()
        return seen[module]

    with injected(c.model, watch):
        gradients = torch.autograd.grad(probability(c).sum(), [seen[layer] for layer in layers])
    return [(seen[layer] * gradient).sum((-2, -1)).abs() for layer, gradient in zip(layers, gradients)]


def by_attention(c):
    matrices = clean_attention(c.model, lambda: probability(c), attention_layers(c.model))
    if c.mask is not None:
        matrices = [matrix * c.mask[:, None, :, None] for matrix in matrices]
    return [matrix.amax((-2, -1)) for matrix in matrices]


def by_masking(c, worth):
    """One whole pass for each head."""
    counts = [attention.shape[1] for attention in clean_attention(c.model, lambda: probability(c), layers_of(c))]
    clean, found = worth(), []
    for layer, count in enumerate(counts):
        scores = []
        for head in range(count):
            with mask_heads(c.model, {layer: [head]}):
                scores.append(clean - worth())
        found.append(torch.stack(scores, 1))
    return found


def layers_of(c):
    return attention_layers(c.model)


def by_ablation(c):
    return by_masking(c, lambda: probability(c).log())


def by_ablation_output(c):
    return by_masking(c, lambda: probability(c))


def by_ablation_accuracy(c):
    return by_masking(c, lambda: (c.forward(c.inputs, c.mask).argmax(-1) == torch.tensor(LABELS)).double())


DIRECT = {
    "attattr": by_attattr,
    "attattr_sum": by_attattr_sum,
    "attattr_absolute": by_attattr_absolute,
    "taylor": by_taylor,
    "attention": by_attention,
    "ablation": by_ablation,
    "ablation_output": by_ablation_output,
    "ablation_accuracy": by_ablation_accuracy,
}


@families
@pytest.mark.parametrize("name", DIRECT)
def test_the_measure_is_its_formula(family, name):
    c = case(family, batch=3)
    measure = AttAttr(MEASURES[name].reduction, n_steps=20) if name.startswith("attattr") else name
    expected = torch.stack([layer.detach() for layer in DIRECT[name](c)], 1)  # (B, L, H)
    found = importance(c, measure)
    tolerance = {"rtol": max(1e-6, 10 * family.digits), "atol": 1e-7}
    torch.testing.assert_close(found.scores, expected.mean(0), **tolerance)
    torch.testing.assert_close(found.standard_deviation, expected.std(0), **tolerance)
    assert found.examples == 3
    assert name == "ablation_accuracy" or found.scores.abs().max() > 1e-3
