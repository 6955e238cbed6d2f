"""Scores without the matrix: equal to those of the whole computation, in memory that grows with the length."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from tiny_models import FAMILIES, case
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.aggregation import Pairs, Reduction, TopPairs, head_scores, token_scores

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
BERT = FAMILIES[0]

BY_HAND = {
    "sum": lambda attributions: attributions.sum((2, 3)),
    "absolute": lambda attributions: attributions.abs().sum((2, 3)),
    "max": lambda attributions: attributions.amax((2, 3)),
    "received": lambda attributions: attributions.sum((1, 2)),
    "sent": lambda attributions: attributions.sum((1, 3)),
    "first": lambda attributions: attributions[:, :, 0].sum(1),
}


class LargestReceived(Reduction):
    """The largest attribution that a token receives, and of how many pairs it is the largest."""

    def score(self, attributions, first):
        return Largest(attributions.amax((1, 2)), torch.full((len(attributions),), attributions[0, :, :, 0].numel()))

    def join(self, one, other):
        return Largest(torch.maximum(one.score, other.score), one.pairs + other.pairs)


class Largest(NamedTuple):
    score: torch.Tensor
    pairs: torch.Tensor


def attribute(c, path="layerwise", layers=None, multiply=True, **options):
    method = SelfAttentionAttribution(
        c.forward, attention_layers(c.model) if layers is None else layers, multiply_by_inputs=multiply, path=path
    )
    return method.attribute(c.inputs, target=1, additional_forward_args=c.mask, **options)


@families
@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("block", [1, 2**26], ids=["a query at a time", "at once"])
def test_every_score_equals_that_of_all_attributions(family, path, block, monkeypatch):
    c = case(family, batch=3)
    whole = attribute(c, path, n_steps=4)
    monkeypatch.setattr("captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", block)
    again = attribute(c, path, n_steps=4)
    reduced = attribute(c, path, n_steps=4, reduce=tuple(BY_HAND))
    for attributions, same, scores in zip(whole, again, reduced, strict=True):
        torch.testing.assert_close(same, attributions, rtol=1e-9, atol=1e-13)
        assert isinstance(scores, tuple)
        for by_hand, score in zip(BY_HAND.values(), scores, strict=True):
            torch.testing.assert_close(score, by_hand(attributions), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("baseline", [None, "uniform", "tensor", "inputs"])
def test_with_every_path_and_baseline(path, multiply, baseline, monkeypatch):
    c = case(BERT, batch=2)
    start = {"attention_baselines": baseline}
    if baseline == "tensor":
        start = {"attention_baselines": torch.rand(2, 1, 7, 7, dtype=torch.float64) / 7}
    if baseline == "inputs":
        start = {"baselines": torch.full_like(c.inputs, 6)}
    whole, deltas = attribute(c, path, multiply=multiply, n_steps=3, return_convergence_delta=True, **start)
    monkeypatch.setattr("captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", 1)
    scores, same = attribute(
        c, path, multiply=multiply, n_steps=3, reduce="max", return_convergence_delta=True, **start
    )
    for attributions, score in zip(whole, scores, strict=True):
        torch.testing.assert_close(score, attributions.amax((2, 3)), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(same, deltas)


@pytest.mark.parametrize("block", [1, 2**26])
@pytest.mark.parametrize("k", [1, 5, 10_000])
def test_the_strongest_pairs(block, k, monkeypatch):
    c = case(BERT, batch=2)
    layer = attention_layers(c.model)[1]
    attributions = attribute(c, layers=layer)
    monkeypatch.setattr("captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", block)
    pairs = attribute(c, layers=layer, reduce=TopPairs(k))
    assert isinstance(pairs, Pairs)
    count = min(k, attributions[0].numel())
    assert all(column.shape == (2, count) for column in pairs)
    assert pairs.shares is pairs.attributions  # the former name
    for example in range(2):
        heads, queries, keys = (column[example] for column in pairs[1:])
        torch.testing.assert_close(attributions[example][heads, queries, keys], pairs.attributions[example])
        strongest = attributions[example].abs().flatten().sort(descending=True).values[:count]
        torch.testing.assert_close(pairs.attributions[example].abs(), strongest)
        assert len(set(zip(heads.tolist(), queries.tolist(), keys.tolist()))) == count


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("options", [{"n_steps": 4}, {"tolerance": 1e-3}], ids=["a fixed rule", "a tolerance"])
def test_a_reduction_of_the_user(path, options, monkeypatch):
    c = case(BERT, batch=3)
    monkeypatch.setattr("captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", 1)
    whole = attribute(c, path, **options)
    for attributions, found in zip(whole, attribute(c, path, reduce=LargestReceived(), **options), strict=True):
        torch.testing.assert_close(found.score, attributions.amax((1, 2)), rtol=1e-9, atol=1e-13)
        assert found.pairs.tolist() == [4 * 7] * 3


class OneNumber(Reduction):
    def score(self, attributions, first):
        return attributions.sum()

    def join(self, one, other):
        return one + other


class Careless(LargestReceived):
    """A reduction with a fault."""

    def __init__(self, fault):
        self.fault = fault

    def score(self, attributions, first):
        if self.fault == "writes":
            attributions.abs_()
        return () if self.fault == "nothing" else {"a": 1} if self.fault == "a mapping" else attributions.amax((1, 2))

    def join(self, one, other):
        return None if self.fault == "joins to nothing" else one[:1] + other[:1]


FAULTS = {
    "writes": "score writes into the attributions", "nothing": "it gave tuple", "a mapping": "it gave dict",
    "joins to nothing": "it gave NoneType", "joins to fewer": r"it gave \(1, 7\)",
}  # fmt: skip


@pytest.mark.parametrize("options", [{"n_steps": 2}, {"tolerance": 0.01}], ids=["a fixed rule", "a tolerance"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_careless_reduction_is_told(fault, options, monkeypatch):
    monkeypatch.setattr("captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", 1)
    with pytest.raises(ValueError, match=FAULTS[fault]):
        attribute(case(BERT), reduce=(Careless(fault), "sum"), **options)


def test_a_reduction_that_loses_the_examples():
    with pytest.raises(
        ValueError, match=r"^OneNumber must give a tensor, .* with the 2 examples along the first axis; it gave \(\)"
    ):
        attribute(case(BERT), reduce=OneNumber())
    with pytest.raises(ValueError, match=r"of heads must give scores of shape \(2, 3\)"):
        head_scores(torch.ones(2, 3, 4, 4), OneNumber())
    with pytest.raises(ValueError, match="TopPairs gives pairs, not scores"):
        head_scores(torch.ones(2, 3, 3, 4, 4), TopPairs(3))
    with pytest.raises(ValueError, match=r"must give scores of shape .*LargestReceived gave Largest"):
        token_scores(torch.ones(2, 1, 3, 4, 4), LargestReceived())


def test_scores_by_a_reduction_of_the_user():
    class Mean(Reduction):
        def score(self, attributions, first):
            return attributions.mean((-2, -1))

        def join(self, one, other):
            raise AssertionError("all queries are given at once")

    attributions = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head_scores(attributions, Mean()), attributions.mean((-2, -1)))


def test_one_layer_gives_one_result_and_a_list_a_list():
    c = case(BERT)
    layer = attention_layers(c.model)[0]
    assert attribute(c, layers=layer, reduce="sum").shape == (2, 4)
    (scores,) = attribute(c, layers=[layer], reduce="sum")
    assert scores.shape == (2, 4)
    ((one, two),) = attribute(c, layers=[layer], reduce=["sum", "sent"])
    assert (one.shape, two.shape) == ((2, 4), (2, 7))


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_with_a_tolerance(path):
    c = case(BERT, batch=3)
    whole = attribute(c, path, tolerance=1e-3, n_steps=60)
    for attributions, (largest, pairs) in zip(
        whole, attribute(c, path, tolerance=1e-3, n_steps=60, reduce=("max", TopPairs(3))), strict=True
    ):
        torch.testing.assert_close(largest, attributions.amax((2, 3)), rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(pairs.attributions[:, 0].abs(), attributions.abs().flatten(1).amax(1))


class LargestTensor(TorchDispatchMode):
    """Number of entries of the largest tensor that any operation made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("path", ["layerwise", "joint"])
@pytest.mark.parametrize("options", [{"n_steps": 2}, {"tolerance": 1e-4}], ids=["a fixed rule", "a tolerance"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_no_matrix_of_a_layer_is_made(name, path, options, monkeypatch):
    monkeypatch.setattr(
        "captum_attattr.engine.layer_state._CPU_BLOCK_BYTES", 4 * 4 * 300 * 20
    )  # twenty queries of four heads
    monkeypatch.setattr("captum_attattr.engine.chunks._CPU_BYTES", 1)
    family = next(family for family in FAMILIES if family.name == name)
    model = case(family).model.float()
    if name == "bert":
        model.bert.embeddings.position_embeddings = torch.nn.Embedding(300, 32)
        model.bert.embeddings.position_ids = torch.arange(300)[None]
        model.bert.embeddings.token_type_ids = torch.zeros(1, 300, dtype=torch.long)
    ids = torch.randint(5, 60, (1, 300), generator=torch.Generator().manual_seed(0))
    method = SelfAttentionAttribution(lambda i: model(i).logits, attention_layers(model), path=path)
    with LargestTensor() as largest:
        method.attribute(ids, target=1, reduce=("max", "received", TopPairs(10)), **options)
    assert largest.entries < 300 * 300  # not even one head's
    with LargestTensor() as largest:
        method.attribute(ids, target=1, n_steps=2)
    assert largest.entries >= 4 * 300 * 300


WRONG = {
    "an unknown name": (
        "mean",
        "Unknown reduction 'mean'. Choose of 'sum', 'absolute', 'max', 'received', 'sent'",
    ),
    "a number": (3, "Unknown reduction 3"),
    "a name among names": (("sum", "mean"), "Unknown reduction 'mean'"),
    "none among names": (("sum", None), "Unknown reduction None"),
    "nothing": ((), "reduce is empty"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_reductions_that_do_not_exist(wrong):
    reduce, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        attribute(case(BERT), reduce=reduce)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_numbers_of_pairs_that_make_no_sense(k):
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        TopPairs(k)
