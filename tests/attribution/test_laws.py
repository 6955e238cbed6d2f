"""Laws that hold for every model and every input."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from agreement import assert_agree
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, case
from tried import configuration

from captum_attattr import (
    AttentionFunction,
    SelfAttentionAttribution,
    attention_layers,
    head_scores,
    layer_scores,
    pair_scores,
    token_scores,
)
from captum_attattr.demo import load_demo, load_reviews
from captum_attattr.engine.quadrature import METHODS, check_steps, quadrature

BY_NAME = {family.name: family for family in FAMILIES}
BERT, GPT2, LLAMA = BY_NAME["bert"], BY_NAME["gpt2"], BY_NAME["llama"]
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
encoders = pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.kind == "encoder"], ids=lambda family: family.name
)
decoders = pytest.mark.parametrize("family", [GPT2, LLAMA], ids=lambda family: family.name)
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
quick = {"deadline": None, "database": None, "derandomize": True, "phases": [Phase.generate]}
a_few = settings(max_examples=4, **quick)


def attribute(forward, layers, inputs, *args, path="layerwise", **options):
    options = {"target": 1, "n_steps": 4, **options}
    some = layers if isinstance(layers, list) else [layers]
    configuration(some[0].config.model_type, len(some), tuple(inputs.shape), int(inputs.sum()), path, sorted(options))
    return SelfAttentionAttribution(forward, layers, path=path).attribute(
        inputs, additional_forward_args=args, **options
    )


def assert_close(ours, theirs, digits):
    """To so many digits of the largest entry."""
    size = theirs.abs().max()
    assert size > 1e-6, "a case in which attention does not matter proves nothing"
    assert (ours - theirs).abs().max() <= digits * size


# Quadrature

DEGREES = {
    "riemann_left": lambda n: 0,
    "riemann_right": lambda n: 0,
    "riemann_middle": lambda n: 1,
    "riemann_trapezoid": lambda n: 1,
    "gausslegendre": lambda n: 2 * n - 1,
}


def test_the_rules_are_captums():
    assert set(METHODS) == set(DEGREES)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, **quick)
@given(n=st.integers(2, 40), coefficients=st.lists(st.floats(-10, 10), min_size=80, max_size=80))
def test_a_rule_is_exact_up_to_its_degree(method, n, coefficients):
    nodes, weights = quadrature(method, n)
    assert nodes.shape == weights.shape == (n,)
    assert ((nodes >= 0) & (nodes <= 1)).all()
    assert (nodes.diff() > 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-13)
    polynomial = np.polynomial.Polynomial(coefficients[: DEGREES[method](n) + 1])
    exact = polynomial.integ()(1.0) - polynomial.integ()(0.0)
    assert float(weights.numpy() @ polynomial(nodes.numpy())) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_converges_at_its_order(method):
    """Beyond its degree: the error of exp(3 a) shrinks by 2 or by 4 when the steps double, or is nothing."""
    exact = (np.exp(3) - 1) / 3

    def error(n):
        nodes, weights = quadrature(method, n)
        return abs(float(weights @ (3 * nodes).exp()) - exact)

    if method == "gausslegendre":
        assert error(10) < 1e-12
    else:
        ratio = 2 if method in ("riemann_left", "riemann_right") else 4
        assert error(50) / error(100) == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize(
    ("method", "most"), [("gausslegendre", 1000), ("riemann_left", 10**6), ("riemann_middle", 10**6)]
)
@pytest.mark.parametrize("beyond", [1, 10**6, 10**12])
def test_more_nodes_than_a_rule_can_be_made_of_cost_no_memory(method, most, beyond):
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{method} takes n_steps of at most {most}, got {most + beyond}.*a tolerance"):
        quadrature(method, most + beyond)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    check_steps(method, most + beyond, fixed=False)  # as a bound it may be anything


# Attention and output


@families
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_output_at_the_models_own_attention_is_the_models_output(family, attention):
    c = case(family, attention=attention)
    layers = attention_layers(c.model)
    clean = c.forward(c.inputs, c.mask).detach()
    for some in ([layers[1]], layers, layers[::-1]):
        function = AttentionFunction(c.forward, some, c.inputs, c.mask)
        assert_close(function(*function.attention).detach(), clean, family.digits)
        halved = function(*(attention / 2 for attention in function.attention))
        assert not torch.allclose(halved, clean, rtol=1e-4)


@both_paths
@a_few
@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(FAMILIES),
    start=st.sampled_from([None, 0.1, "uniform"]),
    places=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
)
def test_attributions_add_up(path, seed, family, start, places):
    """To F(A) - F(A0), computed here by putting the attention in by hand."""
    c = case(family, seed=seed)
    layers = [attention_layers(c.model)[place] for place in places]
    options = {"attention_baselines": start, "n_steps": 60}
    attributions = attribute(c.forward, layers, c.inputs, c.mask, path=path, **options)
    for some, theirs in (
        [(layers, attributions)] if path == "joint" else [([a], [s]) for a, s in zip(layers, attributions)]
    ):
        function = AttentionFunction(c.forward, some, c.inputs, c.mask)
        baselines = [at_start(attention, start, c.padding) for attention in function.attention]
        with torch.no_grad():
            difference = (function(*function.attention) - function(*baselines))[:, 1]
        total = sum(attribution.sum((1, 2, 3)) for attribution in theirs)
        size = sum(attribution.abs().sum() for attribution in theirs)
        digits = 1e-2 if family.name == "distilbert" else 1e-6  # the ReLU of its head has a kink
        assert (total - difference).abs().max() <= digits * size


def at_start(attention, start, padding):
    """A0 as the method takes it: what does not count stays as it is."""
    if start is None:
        start = torch.zeros_like(attention)
    elif start == "uniform":
        start = (attention > 0).to(attention) / (attention > 0).sum(-1, keepdim=True)
    else:
        start = torch.where(attention > 0, start, 0.0).to(attention)
    return start if padding is None else torch.where(padding[:, None, :, None], attention, start)


# Batches


def assert_padding_does_not_matter(alone, padded, real, digits):
    """``real`` marks the tokens of the sentence among those of the padded one."""
    assume(all(one.abs().max() > 1e-6 for one in alone))  # elsewhere attention does not matter
    for one, other in zip(alone, padded, strict=True):
        within = other[..., real, :][..., real]
        assert_close(within, one[0], digits)
        outside = other.clone()
        outside[..., real.unsqueeze(1) & real] = 0
        assert torch.equal(outside, torch.zeros_like(outside))


@encoders
@both_paths
@a_few
@given(seed=st.integers(0, 10**6), length=st.integers(2, 6))
def test_right_padding_does_not_matter(family, path, seed, length):
    c = case(family, batch=2, padded=False, seed=seed)
    ids, mask = c.inputs.clone(), c.mask.clone()
    ids[0, length:], mask[0, length:] = c.model.config.pad_token_id, 0
    layers = attention_layers(c.model)
    options = {"path": path, "attention_baselines": "uniform" if seed % 2 else None}
    alone = attribute(c.forward, layers, ids[:1, :length], mask[:1, :length], **options)
    padded = attribute(c.forward, layers, ids, mask, **options)
    assert_padding_does_not_matter(alone, [one[0] for one in padded], mask[0].bool(), 1e-10)


@decoders
@both_paths
@a_few
@given(seed=st.integers(0, 10**6), length=st.integers(2, 6))
def test_left_padding_does_not_matter(family, path, seed, length):
    c = case(family, batch=2, padded=False, seed=seed)
    ids, mask = c.inputs.clone(), c.mask.clone()
    ids[0, :-length], mask[0, :-length] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def forward(ids, mask, positions):
        logits = c.model(ids, attention_mask=mask, position_ids=positions).logits
        return (logits[:, -1] if logits.dim() == 3 else logits).softmax(-1)

    layers = attention_layers(c.model)
    options = {"path": path, "attention_baselines": "uniform" if seed % 2 else None}
    rest = (slice(0, 1), slice(-length, None))
    alone = attribute(forward, layers, ids[rest], mask[rest], positions[rest], **options)
    padded = attribute(forward, layers, ids, mask, positions, **options)
    assert_padding_does_not_matter(alone, [one[0] for one in padded], mask[0].bool(), 1e-10)


@both_paths
@a_few
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)))
def test_the_order_of_the_batch_does_not_matter(path, seed, order):
    c = case(BERT, batch=3, seed=seed)
    layers = attention_layers(c.model)
    attributions = attribute(c.forward, layers, c.inputs, c.mask, path=path)
    moved = attribute(c.forward, layers, c.inputs[order], c.mask[order], path=path)
    for one, other in zip(attributions, moved, strict=True):
        assert_close(other, one[order], 1e-10)


# The output


@both_paths
@a_few
@given(seed=st.integers(0, 10**6), a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_attribution_is_linear_in_the_output(path, seed, a, b):
    c = case(BERT, seed=seed)
    layers = attention_layers(c.model)
    logit = lambda ids, mask: c.model(ids, mask).logits[:, 0]
    probability = lambda ids, mask: c.forward(ids, mask)[:, 1]
    mixture = lambda ids, mask: a * (p := c.model(ids, mask).logits)[:, 0] + b * p.softmax(-1)[:, 1]
    ones, twos, both = (
        attribute(forward, layers, c.inputs, c.mask, path=path, target=None)
        for forward in (logit, probability, mixture)
    )
    for one, two, mixed in zip(ones, twos, both, strict=True):
        size = abs(a) * one.abs().max() + abs(b) * two.abs().max()
        assert (mixed - (a * one + b * two)).abs().max() <= 1e-11 * size


# Masks


@decoders
@both_paths
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("start", [None, "uniform", 0.5])
@pytest.mark.parametrize("masked", [True, False])
def test_nothing_comes_from_the_future(family, path, attention, start, masked):
    c = case(family, attention=attention)
    mask = c.mask if masked else None

    def forward(ids, mask=None):
        logits = c.model(ids, attention_mask=mask).logits
        return (logits[:, -1 if mask is None else -3] if logits.dim() == 3 else logits).softmax(-1)

    attributions = attribute(forward, attention_layers(c.model), c.inputs, mask, path=path, attention_baselines=start)
    for one in attributions:
        assert torch.equal(one.triu(1), torch.zeros_like(one))
        assert one.abs().max() > 1e-6


# Implementations


@families
@both_paths
def test_eager_and_sdpa_agree_in_float32(family, path):
    by = {}
    for attention in ("eager", "sdpa"):
        c = case(family, dtype=torch.float32, attention=attention)
        by[attention] = attribute(c.forward, attention_layers(c.model), c.inputs, c.mask, path=path)
    for eager, fused in zip(by["eager"], by["sdpa"], strict=True):
        assert eager.dtype == fused.dtype == torch.float32
        assert_close(fused, eager, 1e-5)


@pytest.fixture(scope="module")
def demo():
    model, tokenizer = load_demo()
    texts = [sentence for sentence, _ in load_reviews()[:3]]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return model, batch["input_ids"], batch["attention_mask"]


def probability_of(model):
    return lambda ids, mask: model(ids, attention_mask=mask).logits.softmax(-1)


@both_paths
def test_eager_and_sdpa_agree_on_the_trained_model(demo, path):
    model, ids, mask = demo
    forward, by = probability_of(model), {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        by[attention] = attribute(forward, attention_layers(model), ids, mask, path=path)
    for eager, fused in zip(by["eager"], by["sdpa"], strict=True):
        assert_close(fused, eager, 1e-5)


@both_paths
def test_padding_does_not_matter_to_the_trained_model(demo, path):
    model, ids, mask = demo
    layers, forward = attention_layers(model), probability_of(model)
    together = attribute(forward, layers, ids, mask, path=path)
    lengths = mask.sum(1)
    assert len(set(lengths.tolist())) > 1
    for i, length in enumerate(lengths):
        alone = attribute(forward, layers, ids[i : i + 1, :length], mask[i : i + 1, :length], path=path)
        assert_padding_does_not_matter(alone, [one[i] for one in together], mask[i].bool(), 1e-5)


# Scores


attributions_of = st.builds(
    lambda seed, shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
    st.integers(0, 10**6),
    st.tuples(*(st.integers(1, 3) for _ in range(3)), st.integers(2, 4)).map(lambda s: (*s, s[-1])),
)


@a_few
@given(attributions=attributions_of)
def test_scores_are_plain_sums(attributions):
    heads = torch.stack([torch.stack([torch.stack([h.sum() for h in b]) for b in layer]) for layer in attributions])
    pairs = sum(head for layer in attributions for head in layer.unbind(1))
    expected = [
        (head_scores(attributions), heads),
        (head_scores(attributions, "absolute"), attributions.abs().sum(4).sum(3)),
        (head_scores(attributions, "max"), attributions.flatten(3).max(3).values),
        (pair_scores(attributions), pairs),
        (token_scores(attributions), sum(pairs[:, i] for i in range(pairs.shape[1]))),
        (token_scores(attributions, "sent"), sum(pairs[..., j] for j in range(pairs.shape[2]))),
        (token_scores(attributions, "first"), pairs[:, 0]),
        (layer_scores(attributions), heads.sum(2)),
    ]
    for ours, theirs in expected:
        torch.testing.assert_close(ours, theirs)
    total = attributions.sum((0, 2, 3, 4))
    for scores, axes in [
        (head_scores(attributions), (0, 2)),
        (token_scores(attributions), 1),
        (layer_scores(attributions), 0),
    ]:
        torch.testing.assert_close(scores.sum(axes), total)


@pytest.mark.parametrize("score", [head_scores, token_scores, pair_scores, layer_scores])
@a_few
@given(attributions=attributions_of)
def test_a_list_and_one_sentence_are_scored_as_the_batch_is(score, attributions):
    whole = score(attributions)
    assert_agree(score(list(attributions)), whole)
    for i in range(attributions.shape[1]):
        alone = whole[:, i] if score in (head_scores, layer_scores) else whole[i]
        torch.testing.assert_close(score(attributions[:, i]), alone)


SIZES = {"max": lambda s: s.abs().max(), "l1": lambda s: s.abs().sum(), "l2": lambda s: s.norm()}


@pytest.mark.parametrize("score", [head_scores, token_scores, pair_scores, layer_scores])
@pytest.mark.parametrize("normalize", list(SIZES))
@a_few
@given(attributions=attributions_of)
def test_normalised_scores_have_size_one_in_each_example(score, normalize, attributions):
    raw, scores = score(attributions), score(attributions, normalize=normalize)
    batch_axis = 1 if score in (head_scores, layer_scores) else 0
    for one, other in zip(scores.unbind(batch_axis), raw.unbind(batch_axis), strict=True):
        torch.testing.assert_close(one, other / SIZES[normalize](other))
        assert SIZES[normalize](one).item() == pytest.approx(1)


@pytest.mark.parametrize("normalize", list(SIZES))
def test_heads_are_normalised_within_their_layer_if_asked_for(normalize):
    attributions = torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    scores = head_scores(attributions, normalize=normalize, within_layer=True)
    for layer in range(3):
        torch.testing.assert_close(scores[layer], head_scores(attributions[layer : layer + 1], normalize=normalize)[0])


def test_nothing_normalised_is_nothing():
    assert torch.equal(head_scores(torch.zeros(2, 3, 4, 4), normalize="l2"), torch.zeros(2, 3))


@pytest.mark.parametrize("score", [head_scores, token_scores, pair_scores, layer_scores])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (1, 2, 1, 3, 4, 4)], ids=str)
def test_a_wrong_number_of_axes_is_refused(score, shape):
    with pytest.raises(ValueError, match=r"must be \(layer, head, query, key\) or \(layer, batch, head, query, key\)"):
        score(torch.ones(shape))


@pytest.mark.parametrize("score", [head_scores, token_scores, pair_scores, layer_scores])
@pytest.mark.parametrize("shapes", [[(2, 4, 4), (2, 5, 5)], []], ids=["differing", "none"])
def test_layers_that_do_not_fit_together_are_refused(score, shapes):
    with pytest.raises(ValueError, match=r"Layers must have the same shape"):
        score([torch.ones(shape) for shape in shapes])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda attributions: head_scores(attributions, "mean"), "Unknown reduction 'mean' of heads"),
        (lambda attributions: token_scores(attributions, "last"), "Unknown reduction 'last' to tokens"),
        (lambda attributions: head_scores(attributions, normalize="L2"), "Unknown normalize 'L2'"),
        (lambda attributions: pair_scores(attributions, normalize=True), "Unknown normalize True"),
        (lambda attributions: token_scores(attributions, normalize="mean"), "Unknown normalize 'mean'"),
        (lambda attributions: layer_scores(attributions, normalize="mean"), "Unknown normalize 'mean'"),
    ],
)
def test_unknown_choices_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3, 4, 4))
