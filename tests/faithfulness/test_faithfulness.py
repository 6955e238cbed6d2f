"""Measures of faithfulness against loops that remove by hand, one sentence and one feature at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import clean_attention, injected
from snapshot import untouched  # noqa: F401
from tiny_models import FAMILIES, case, make

from captum_attattr import SelfAttentionAttribution, attention_layers, head_scores
from captum_attattr.demo import load_demo
from captum_attattr.faithfulness import (
    EdgeRemoval,
    HeadRemoval,
    TokenRemoval,
    agreement,
    comprehensiveness,
    deletion_curve,
    deletion_gap,
    leave_one_out,
    log_odds,
    sufficiency,
)

BY_NAME = {family.name: family for family in FAMILIES}
FRACTIONS = (0.05, 0.2, 0.5, 1.0)
TARGETS = [1, 2]


def tokens_case(name: str):
    found = case(BY_NAME[name])
    special = torch.zeros_like(found.inputs)
    special[:, 0] = 1
    scores = torch.randn(found.inputs.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return found, special, scores


def removed_by_hand(found, row: int, gone: list[int], how: str, token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row without its padding and without the tokens that are gone."""
    ids = [int(i) for i, real in zip(found.inputs[row], found.mask[row]) if real]
    mask = [1] * len(ids)
    if how == "delete":
        ids = [i for place, i in enumerate(ids) if place not in gone]
        mask = [1] * len(ids)
    for place in gone if how != "delete" else []:
        if how == "mask":
            mask[place] = 0
        else:
            ids[place] = token
    return torch.tensor([ids]).to(found.inputs), torch.tensor([mask]).to(found.inputs)


def order_by_hand(scores: torch.Tensor, removable: torch.Tensor, descending: bool = True) -> list[int]:
    places = [place for place, allowed in enumerate(removable.tolist()) if allowed]
    return sorted(places, key=lambda place: float(scores[place]), reverse=descending)


def removal_of(found, special, how: str = "mask", **options) -> TokenRemoval:
    token = {"mask": None, "delete": found.model.config.pad_token_id, "replace": 59}[how]
    return TokenRemoval(
        found.forward, found.inputs, found.mask, target=TARGETS, special_tokens_mask=special, how=how, token_id=token,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["mask", "delete", "replace"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_tokens_removed_by_hand(name, how):
    found, special, scores = tokens_case(name)
    removal = removal_of(found, special, how)
    curve = deletion_curve(removal, scores, FRACTIONS, batch_size=3).outputs
    kept_best = sufficiency(removal, scores, FRACTIONS)
    odds = log_odds(removal, scores, FRACTIONS)
    for row, target in enumerate(TARGETS):
        order = order_by_hand(scores[row], removal.removable[row])

        def f(gone, row=row, target=target):
            with torch.no_grad():
                return found.forward(*removed_by_hand(found, row, gone, how, 59))[0, target]

        for point, fraction in enumerate(FRACTIONS):
            count = math.ceil(fraction * len(order))
            without, clean = f(order[:count]), f([])
            torch.testing.assert_close(curve[row, 0], clean, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(curve[row, point + 1], without, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(kept_best[row, point], clean - f(order[count:]), rtol=1e-6, atol=1e-9)
            change = torch.log(without / (1 - without)) - torch.log(clean / (1 - clean))
            torch.testing.assert_close(odds[row, point], change, rtol=1e-5, atol=1e-7)


def test_deletion_moves_what_goes_with_the_tokens():
    seen = []

    def forward(ids, mask, types, weights):
        seen.append((ids, mask, types, weights))
        return (ids * types * mask).sum(1).double()

    ids, types = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 2, 3, 4]])
    removal = TokenRemoval(forward, ids, None, (types, torch.ones(2)), how="delete", token_id=0)
    curve = deletion_curve(removal, torch.tensor([[0.1, 0.9, 0.2, 0.3]]), [0.25])
    assert curve.outputs.tolist() == [[5 + 12 + 21 + 32, 5 + 21 + 32]]
    assert all(weights.tolist() == [1, 1] for *_, weights in seen)


def test_a_constant_argument_as_long_as_the_rows_is_no_row():
    constant = torch.arange(1.0, 4)  # as many as there are rows to run: those of the fractions 0, 1/3 and 2/3
    removal = TokenRemoval(lambda ids, mask, c: mask.sum(1) * c.sum(), torch.tensor([[1, 2, 3]]), None, (constant,))
    assert deletion_curve(removal, torch.rand(1, 3), [1 / 3, 2 / 3]).outputs.tolist() == [[18, 12, 6]]


def test_rows_that_come_out_alike_are_run_once():
    rows = []

    def forward(ids, mask):
        rows.append(len(ids))
        return mask.sum(1).double()

    removal = TokenRemoval(forward, torch.tensor([[4, 5, 6]]).repeat(7, 1))
    outputs = deletion_curve(removal, torch.rand(1, 3).expand(7, 3), [1 / 3, 2 / 3]).outputs
    assert outputs.tolist() == [[3, 2, 1]] * 7
    assert sum(rows) == 3


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("one_layer", [True, False])
def test_edges_cut_by_hand(family, one_layer):
    found = case(family)
    layers = attention_layers(found.model)
    layers = layers[1:2] if one_layer else layers
    additional = None if found.mask is None else found.mask
    removal = EdgeRemoval(found.forward, layers, found.inputs, additional, target=TARGETS)
    scores = [torch.randn(shape, dtype=torch.float64) for shape in shapes(found, layers)]
    for order in ("most", "least"):
        curve = deletion_curve(removal, scores, FRACTIONS, order=order, batch_size=4).outputs
        flat = removal.flatten(scores)
        for row, target in enumerate(TARGETS):
            by_hand = order_by_hand(flat[row], removal.removable[row], order == "most")
            for point, fraction in enumerate((0.0, *FRACTIONS)):
                gone = by_hand[: math.ceil(fraction * len(by_hand))]
                expected = cut_by_hand(found, layers, removal, row, gone)[row, target]
                torch.testing.assert_close(curve[row, point], expected, rtol=10 * family.digits, atol=family.digits)


def shapes(found, layers):
    return [a.shape for a in clean_attention(found.model, lambda: found.forward(found.inputs, found.mask), layers)]


def cut_by_hand(found, layers, removal, row: int, gone: list[int], renormalize: bool = False) -> torch.Tensor:
    """The output with these features of one example's attention multiplied by 0, all others recomputed."""
    keep = torch.ones(removal.removable.shape, dtype=torch.float64, device=found.inputs.device)
    keep[row, gone] = 0
    by_layer = dict(zip(layers, removal.unflatten(keep) if removal._listed else [removal.unflatten(keep)]))

    def cut(module, attention):
        if module not in by_layer:
            return attention
        left = attention * by_layer[module].reshape(*by_layer[module].shape[:2], *attention.shape[2:])
        if renormalize:
            left = torch.nan_to_num(left / left.sum(-1, keepdim=True))
        return left

    with injected(found.model, cut), torch.no_grad():
        return found.forward(found.inputs, found.mask)


def test_renormalized_edges():
    found = case(BY_NAME["bert"])
    layers = attention_layers(found.model)
    removal = EdgeRemoval(found.forward, layers, found.inputs, found.mask, target=TARGETS, renormalize=True)
    scores = [torch.randn(shape, dtype=torch.float64) for shape in shapes(found, layers)]
    curve = deletion_curve(removal, scores, FRACTIONS).outputs
    flat = removal.flatten(scores)
    for row, target in enumerate(TARGETS):
        order = order_by_hand(flat[row], removal.removable[row])
        for point, fraction in enumerate(FRACTIONS[:-1], 1):
            expected = cut_by_hand(found, layers, removal, row, order[: math.ceil(fraction * len(order))], True)
            torch.testing.assert_close(curve[row, point], expected[row, target])


def test_within_a_layer_only_its_edges_go():
    found = case(BY_NAME["bert"])
    layers = attention_layers(found.model)
    scores = [torch.randn(shape, dtype=torch.float64) for shape in shapes(found, layers)]
    arguments = {"inputs": found.inputs, "additional_forward_args": found.mask, "target": TARGETS}
    everywhere = EdgeRemoval(found.forward, layers, **arguments)
    alone = EdgeRemoval(found.forward, layers[1], **arguments)
    inside = deletion_curve(everywhere.within(1), scores, FRACTIONS).outputs
    torch.testing.assert_close(inside, deletion_curve(alone, scores[1], FRACTIONS).outputs)
    with pytest.raises(ValueError, match="Layer 3 of 3 layers: give 0 to 2"):
        everywhere.within(3)


def test_single_heads_and_edges_left_out_by_hand():
    found = case(BY_NAME["llama"])  # heads share their keys and values
    layers = attention_layers(found.model)
    with torch.no_grad():
        clean = found.forward(found.inputs, found.mask)
    for kind, sample in ((HeadRemoval, None), (EdgeRemoval, 15)):
        removal = kind(found.forward, layers, found.inputs, found.mask, target=TARGETS)
        effects = removal.flatten(leave_one_out(removal, sample, batch_size=5))
        assert effects.isfinite().sum(1).tolist() == [12 if sample is None else sample] * 2
        for row, target in enumerate(TARGETS):
            for feature in effects[row].isfinite().nonzero()[:, 0].tolist():
                if kind is HeadRemoval:
                    expected = head_cut(found, layers[feature // 4], feature % 4)[row, target]
                else:
                    expected = cut_by_hand(found, layers, removal, row, [feature])[row, target]
                torch.testing.assert_close(effects[row, feature], clean[row, target] - expected, rtol=1e-4, atol=1e-8)


def head_cut(found, layer, head: int) -> torch.Tensor:
    def cut(module, attention):
        keep = attention.new_ones(attention.shape[1])
        keep[head] = 0
        return attention * keep[:, None, None] if module is layer else attention

    with injected(found.model, cut), torch.no_grad():
        return found.forward(found.inputs, found.mask)


def test_curve_numbers():
    outputs = {0: 1.0, 1: 0.8, 2: 0.2, 3: 0.0}
    removal = TokenRemoval(
        lambda ids, mask: torch.tensor([outputs[4 - int(m.sum())] for m in mask]).double(),
        torch.tensor([[1, 2, 3, 4]]),
        special_tokens_mask=torch.tensor([[1, 0, 0, 0]]),
    )
    curve = deletion_curve(removal, torch.tensor([[9.0, 3, 2, 1]]), [1 / 3, 2 / 3, 1.0])
    torch.testing.assert_close(curve.outputs, torch.tensor([[1.0, 0.8, 0.2, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(curve.aopc(), torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(curve.area(), torch.tensor([(0.9 + 0.5 + 0.1) / 3], dtype=torch.float64))


@given(st.integers(1, 60), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_least_number_that_is_at_least_the_fraction(length, fraction):
    removal = TokenRemoval(lambda ids, mask: mask.sum(1), torch.ones(1, length + 1).long(),
                           special_tokens_mask=torch.eye(length + 1)[:1])  # fmt: skip
    gone = int(deletion_curve(removal, torch.rand(1, length + 1), [fraction]).drops[0, 1])
    hundredths = round(100 * fraction)
    assert gone == -(-hundredths * length // 100)


@given(st.integers(0, 10**6), st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_laws_of_curves(seed, length):
    generator = torch.Generator().manual_seed(seed)
    worth = torch.randn(length, generator=generator, dtype=torch.float64)
    ids = torch.arange(length)[None]
    removal = TokenRemoval(lambda ids, mask: (worth[ids] * mask).sum(1), ids, special_tokens_mask=torch.eye(length)[:1])
    scores = torch.randn(1, length, generator=generator, dtype=torch.float64)
    most = deletion_curve(removal, scores).outputs
    least = deletion_curve(removal, scores, order="least").outputs
    torch.testing.assert_close(most[:, [0, -1]], least[:, [0, -1]])
    torch.testing.assert_close(least, deletion_curve(removal, -scores).outputs)
    torch.testing.assert_close(most, deletion_curve(removal, scores.exp()).outputs)
    torch.testing.assert_close(comprehensiveness(removal, scores), most.new_tensor(
        deletion_curve(removal, scores, (0.05, 0.1, 0.2, 0.5)).drops[:, 1:].tolist()))  # fmt: skip
    assert float(sufficiency(removal, scores, [1.0]).abs().max()) < 1e-12
    # Of a sum no order beats that of the summands, and each one's effect is the summand itself.
    effects = leave_one_out(removal)
    torch.testing.assert_close(effects[0, 1:], worth[1:])
    assert math.isnan(float(effects[0, 0]))
    best, any_gap = deletion_gap(removal, worth[None]), deletion_gap(removal, scores)
    assert float(best) >= float(any_gap) - 1e-12
    if length > 2:
        assert float(agreement(removal, worth[None], effects)) == pytest.approx(1)
        assert float(agreement(removal, -3 * worth[None], effects, "pearson")) == pytest.approx(-1)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_spearman_with_ties(values, seed):
    scores = torch.tensor([values], dtype=torch.float64)
    effects = torch.randint(0, 4, scores.shape, generator=torch.Generator().manual_seed(seed)).double()
    removal = TokenRemoval(lambda ids, mask: mask.sum(1), torch.ones(scores.shape).long())

    def ranks(row):  # one more than the number below, and half of the others that are equal
        return [sum(o < v for o in row) + (sum(o == v for o in row) - 1) / 2 for v in row]

    pair = torch.tensor([ranks(scores[0].tolist()), ranks(effects[0].tolist())])
    found = float(agreement(removal, scores, effects))
    if len(set(values)) == 1 or len(set(effects[0].tolist())) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-6)


def test_equal_scores_go_in_a_random_order_that_the_seed_fixes():
    removal = TokenRemoval(lambda ids, mask: (mask * 2.0 ** torch.arange(20)).sum(1).double(), torch.ones(1, 20).long())
    levels = [0.1, 0.4, 0.7]
    curves = [deletion_curve(removal, torch.zeros(1, 20), levels, seed=seed).outputs[0] for seed in (0, 0, 1)]
    assert torch.equal(curves[0], curves[1])
    assert not torch.equal(curves[0], curves[2])
    first_first = [float(sum(2**place for place in range(gone, 20))) for gone in (0, 2, 8, 14)]
    assert curves[0].tolist() != first_first


def test_alone_and_in_a_padded_batch():
    found, special, scores = tokens_case("bert")
    short = slice(None), slice(5)
    alone = TokenRemoval(found.forward, found.inputs[1:][short], None, target=2, special_tokens_mask=special[1:][short])
    for measure in (comprehensiveness, sufficiency, log_odds):
        together = measure(removal_of(found, special), scores)[1:]
        torch.testing.assert_close(measure(alone, scores[1:][short]), together, rtol=1e-7, atol=1e-9)


def test_the_fraction_zero_is_a_column_of_the_measures_and_the_first_point_of_a_curve():
    removal = TokenRemoval(lambda ids, mask: mask.sum(1).double(), torch.ones(1, 5).long(),
                           special_tokens_mask=torch.eye(5)[:1])  # fmt: skip
    scores = torch.rand(1, 5)
    assert comprehensiveness(removal, scores, [0.0, 0.5]).tolist() == [[0, 2]]
    assert sufficiency(removal, scores, [0.0, 0.5]).tolist() == [[4, 2]]
    for fractions in ([0.0, 0.5], [0.5]):
        curve = deletion_curve(removal, scores, fractions)
        assert (curve.fractions.tolist(), curve.outputs.tolist()) == ([0, 0.5], [[5, 3]])


def test_infinite_scores_have_their_place_too():
    removal = TokenRemoval(lambda ids, mask: mask[:, 1:].sum(1), torch.ones(1, 4).long(),
                           special_tokens_mask=torch.eye(4)[:1])  # fmt: skip
    for order in ("most", "least"):
        scores = torch.tensor([[math.inf, -math.inf, 0, math.inf]])
        assert deletion_curve(removal, scores, [1.0], order=order).outputs.tolist() == [[3, 0]]


def test_the_model_stays_as_it_is(untouched):  # noqa: F811
    model = make(BY_NAME["bert"])
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    layers = attention_layers(model)
    with untouched(model, lambda: model(ids)):
        deletion_gap(EdgeRemoval(model, layers, ids, target=0), [torch.rand(2, 4, 6, 6) for _ in layers], [0.5])
        leave_one_out(HeadRemoval(model, layers, ids, target=0))
        deletion_curve(TokenRemoval(model, ids, target=0), torch.rand(2, 6), [0.5])

    def broken(ids):
        model(ids)
        raise ZeroDivisionError

    with untouched(model, lambda: model(ids)), pytest.raises(ZeroDivisionError):
        EdgeRemoval(broken, layers, ids, target=0)


def test_works_in_inference_mode_and_needs_no_gradient():
    found = case(BY_NAME["bert"])
    layers = attention_layers(found.model)
    with torch.inference_mode():
        removal = HeadRemoval(found.forward, layers, found.inputs, found.mask, target=TARGETS)
        inside = leave_one_out(removal)
    outside = leave_one_out(HeadRemoval(found.forward, layers, found.inputs, found.mask, target=TARGETS))
    torch.testing.assert_close(inside, outside)
    assert not outside.requires_grad


def test_ours_beats_chance_on_trained_weights():
    model, tokenizer = load_demo()
    ids = tokenizer("The plot was interesting but the execution was poor.", return_tensors="pt")["input_ids"]
    layers = attention_layers(model)

    def forward(ids):
        return model(ids).logits.softmax(-1)

    attributions = SelfAttentionAttribution(forward, layers).attribute(ids, target=0, n_steps=6)
    edges = EdgeRemoval(forward, layers, ids, target=0)
    chance = [torch.rand(s.shape, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(attributions)]
    levels = [0.01, 0.05, 0.2, 0.5]
    assert (
        float(deletion_gap(edges, attributions, levels)) > 0.3 > 0.1 > float(deletion_gap(edges, chance, levels).abs())
    )
    heads = HeadRemoval(forward, layers, ids, target=0)
    assert float(agreement(heads, head_scores(attributions), leave_one_out(heads))) > 0.5


IDS = torch.ones(2, 4).long()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenRemoval(id, IDS, how="zap"), ValueError, "Choose 'mask', 'delete' or 'replace'"),
        (lambda: TokenRemoval(id, IDS, how="replace"), ValueError, "token_id=tokenizer.mask_token_id"),
        (lambda: TokenRemoval(id, IDS, how="delete"), ValueError, "token_id=tokenizer.pad_token_id"),
        (lambda: TokenRemoval(id, IDS[0]), ValueError, "input_ids must be a tensor \\(batch, token\\)"),
        (lambda: TokenRemoval(id, IDS, IDS[:1]), ValueError, "attention_mask is \\(1, 4\\), input_ids are \\(2, 4\\)"),
        (lambda: deletion_curve(REMOVAL, torch.rand(2, 3)), ValueError, "expected \\(batch, token\\) = \\(2, 4\\)"),
        (lambda: deletion_curve(REMOVAL, [1.0]), TypeError, "must be a tensor \\(batch, token\\), got list"),
        (lambda: deletion_curve(REMOVAL, torch.full((2, 4), math.nan)), ValueError, "hold NaN"),
        (lambda: deletion_curve(REMOVAL, SCORES, [0.5, 0.2]), ValueError, "must ascend from 0 to at most 1"),
        (lambda: deletion_curve(REMOVAL, SCORES, [1.5]), ValueError, "must ascend from 0 to at most 1"),
        (lambda: deletion_curve(REMOVAL, SCORES, []), ValueError, "must ascend from 0 to at most 1"),
        (lambda: deletion_curve(REMOVAL, SCORES, order="best"), ValueError, "Choose 'most' or 'least'"),
        (lambda: deletion_curve(REMOVAL, SCORES, [0.5], batch_size=0), ValueError, "batch_size must be a whole number"),
        (lambda: deletion_curve(REMOVAL, SCORES), ValueError, "Nothing would be left of example 0"),
        (lambda: log_odds(REMOVAL, SCORES, [0.5]), ValueError, "Log-odds need probabilities, got outputs from 2 to 4"),
        (lambda: leave_one_out(REMOVAL, 0), ValueError, "sample must be a whole number of at least 1"),
        (lambda: leave_one_out(REMOVAL, batch_size=0), ValueError, "batch_size must be a whole number of at least 1"),
        (lambda: sufficiency(REMOVAL, SCORES, [0.5, 0.2]), ValueError, "must ascend from 0 to at most 1"),
        (lambda: sufficiency(REMOVAL, SCORES, [0.5], batch_size=True), ValueError, "batch_size must be a whole number"),
        (lambda: agreement(REMOVAL, SCORES, SCORES, "kendall"), ValueError, "Choose 'spearman' or 'pearson'"),
        (
            lambda: deletion_curve(TokenRemoval(id, IDS, special_tokens_mask=IDS), SCORES),
            ValueError,
            "Example 0 has nothing that may be removed",
        ),
    ],
)
def test_bad_calls_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


SCORES = torch.rand(2, 4)
REMOVAL = TokenRemoval(lambda ids, mask: mask.sum(1).double(), IDS)


def test_scores_of_attention_in_other_shapes_are_refused():
    found = case(BY_NAME["bert"])
    layers = attention_layers(found.model)
    edges = EdgeRemoval(found.forward, layers, found.inputs, found.mask, target=TARGETS)
    heads = HeadRemoval(found.forward, layers, found.inputs, found.mask, target=TARGETS)
    with pytest.raises(ValueError, match="scores of 2 layers for 3 layers"):
        deletion_curve(edges, [torch.rand(2, 4, 7, 7)] * 2)
    with pytest.raises(ValueError, match=r"expected \(batch, head, query, key\) = \(2, 4, 7, 7\)"):
        deletion_curve(edges, [torch.rand(2, 4, 7, 6)] * 3)
    with pytest.raises(ValueError, match=r"expected \(layer, batch, head\) = \(3, 2, 4\)"):
        deletion_curve(heads, torch.rand(2, 3, 4))


def test_progress(capsys):
    deletion_curve(REMOVAL, SCORES, [0.5], show_progress=True)
    leave_one_out(REMOVAL, show_progress=True)
    assert "4/4" in (shown := capsys.readouterr().err)
    assert "8/8" in shown
