"""A model on a GPU gives the CPU's numbers, on its own device, and the device's memory comes back.

Skipped where there is none. With ``CAPTUM_ATTATTR_TEST_DEVICE=cuda`` the tests against the oracle, the laws and all
others that use the small models run there, too.
"""

from __future__ import annotations

import copy
import gc
import warnings
from functools import cache

import pytest
import torch
from agreement import assert_agree
from oracles import direct_attribution
from tiny_seq2seq import CROSS

from captum_attattr import (
    AttributionTree,
    HeadImportance,
    Report,
    SelfAttentionAttribution,
    attention_layers,
    explain,
    extract_triggers,
    load_pruned,
    mask_heads,
    prune_heads,
    rough_layers,
    save_pruned,
    token_scores,
    visualize_explanation,
)
from captum_attattr.demo import load_demo
from captum_attattr.faithfulness import EdgeRemoval, TokenRemoval, agreement, comprehensiveness, leave_one_out
from captum_attattr.heads import MEASURES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

TEXTS = [
    "The dialogue sparkles and the camera seems to dance along with it.",
    "The romance has all the heat of a cold cup of tea.",
    "Dull.",
]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
both_devices = ("cpu", "cuda")


@cache
def demo(device, dtype=torch.float64):
    model, tokenizer = load_demo(dtype=dtype)
    return model.to(device), tokenizer


@cache
def encoded(device):
    batch = demo("cpu")[1](TEXTS, padding=True, return_tensors="pt").to(device)
    return batch["input_ids"], batch["attention_mask"]


def probabilities(model):
    return lambda ids, mask: model(ids, attention_mask=mask).logits.softmax(-1)


def attribute(device, path, dtype=torch.float64, forward=None, **options):
    model = demo(device, dtype)[0]
    ids, mask = encoded(device)
    method = SelfAttentionAttribution(forward or probabilities(model), attention_layers(model), path=path)
    options = {"target": torch.tensor([1, 0, 0]), **options}
    return method.attribute(ids, additional_forward_args=mask, return_convergence_delta=True, **options)


def assert_same(ours, theirs, digits, size=None):
    """One result by a GPU, the other by a CPU."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.device.type == "cuda"
        assert_agree(one.cpu(), other, digits=digits, size=size)


# The method


@both_paths
@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 4},
        {"tolerance": 0.01},
        {"tolerance": 1e-5, "n_steps": 100},
        {"n_steps": 3, "attention_baselines": "uniform"},
        {"n_steps": 3, "attention_baselines": torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)},
        {"n_steps": 3, "reduce": "max"},
        {"n_steps": 3, "internal_batch_size": 4},
    ],
    ids=lambda options: ", ".join(options),
)
def test_attributions_are_those_of_the_cpu(path, options):
    (theirs, deltas), (ours, ours_deltas) = (attribute(device, path, **options) for device in both_devices)
    assert_same(ours, theirs, 1e-9)
    ours_deltas, deltas = ([one] if path == "joint" else one for one in (ours_deltas, deltas))
    assert_same(ours_deltas, deltas, 1e-9, size=1.0)


@both_paths
def test_in_float32(path):
    (theirs, _), (ours, _) = (attribute(device, path, torch.float32, n_steps=4) for device in both_devices)
    assert_same(ours, theirs, 1e-4)


@both_paths
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 0.1), (torch.float16, 0.012)], ids=str)
def test_in_half_precision(path, implementation, dtype, digits):
    """Fused kernels there, too; the errors are those that half precision has on a CPU, see test_precision.py."""
    exact, _ = attribute("cuda", path, torch.float32, n_steps=3)
    model, _ = load_demo(dtype=dtype)
    model.set_attn_implementation(implementation)
    model.to("cuda")
    found, _ = SelfAttentionAttribution(probabilities(model), attention_layers(model), path=path).attribute(
        encoded("cuda")[0], None, torch.tensor([1, 0, 0]), encoded("cuda")[1], 3, return_convergence_delta=True
    )
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        sizes = other.flatten(1).norm(dim=1).clamp(min=0.02)
        assert bool(((one - other).flatten(1).norm(dim=1) <= digits * sizes).all())


@both_paths
def test_under_autocast(path):
    exact, _ = attribute("cuda", path, torch.float32, n_steps=3)
    with torch.autocast("cuda", torch.bfloat16):
        found, _ = attribute("cuda", path, torch.float32, n_steps=3)
        assert torch.is_autocast_enabled("cuda")
    for one, other in zip(found, exact, strict=True):
        sizes = other.flatten(1).norm(dim=1).clamp(min=0.02)
        assert bool(((one - other).flatten(1).norm(dim=1) <= 0.1 * sizes).all())


@both_paths
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_cross_attention_against_the_direct_computation(family, path):
    torch.manual_seed(0)
    model = CROSS[family]().double().eval().to("cuda")
    ids = torch.randint(5, 60, (2, 5), device="cuda")
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device="cuda")
    begun = torch.tensor([[2, 7, 8, 9, 10]], device="cuda")

    def forward(ids, mask):
        logits = model(ids, attention_mask=mask, decoder_input_ids=begun.expand(len(ids), -1), use_cache=False).logits
        return logits[:, -1].softmax(-1)

    # Of the decoder alone: rows of padding in the encoder are a matter of their own.
    layers = attention_layers(model.get_decoder())
    found = SelfAttentionAttribution(forward, layers, path=path).attribute(ids, None, 3, mask, 8)
    for group in [layers] if path == "joint" else [[layer] for layer in layers]:
        exact, _ = direct_attribution(model, lambda: forward(ids, mask)[:, 3], group, n_steps=8)
        for layer, one in zip(group, exact, strict=True):
            assert_agree(found[layers.index(layer)], one, digits=1e-6)


@both_paths
@pytest.mark.parametrize("target", [[1, 0, 7], [1, 0, -3]], ids=str)
@pytest.mark.parametrize("kind", [list, torch.tensor, lambda some: torch.tensor(some, device="cuda")])
def test_a_target_out_of_range_is_refused_before_the_gpu_meets_it(path, target, kind):
    with pytest.raises(ValueError, match="there are 2 outputs"):
        attribute("cuda", path, n_steps=2, target=kind(target))
    attribute("cuda", path, n_steps=2)


@both_paths
def test_where_the_gpu_is_the_default_device(path):
    theirs, _ = attribute("cpu", path, n_steps=3)
    with torch.device("cuda"):
        ours, _ = attribute("cuda", path, n_steps=3)
    assert_same(ours, theirs, 1e-9)


def test_the_gpus_random_numbers_are_the_users():
    before = torch.cuda.get_rng_state()
    attribute("cuda", "layerwise", tolerance=0.01)
    assert torch.equal(torch.cuda.get_rng_state(), before)


# Memory


def test_memory_comes_back():
    attribute("cuda", "joint", n_steps=3)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for path in ("layerwise", "joint") * 3:
        attribute("cuda", path, tolerance=1e-4, n_steps=60)
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@both_paths
def test_rows_that_do_not_fit_are_run_by_halves(path):
    whole, _ = attribute("cuda", path, torch.float32, n_steps=1000, internal_batch_size=None)
    gc.collect()
    torch.cuda.empty_cache()
    total, failed = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_stats()["num_ooms"]
    for mebibytes in (192, 96, 48, 24):  # until not all rows fit
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + mebibytes * 2**20) / total)
        try:
            parts, _ = attribute("cuda", path, torch.float32, n_steps=1000, internal_batch_size=None)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert_agree(parts, whole, digits=1e-5)
        if torch.cuda.memory_stats()["num_ooms"] > failed:
            return
        gc.collect()
        torch.cuda.empty_cache()
    raise AssertionError("all rows fitted: nothing was tried")


# What is built on it


def test_explanations_their_files_and_pictures(tmp_path):
    theirs, ours = (explain(TEXTS, *demo(device), path="joint") for device in both_devices)
    for one, other in zip(ours, theirs, strict=True):
        assert one.attributions.device.type == "cpu"
        assert (one.tokens, one.target) == (other.tokens, other.target)
        assert_agree(one.attributions, other.attributions, digits=1e-5)
        tree, expected = AttributionTree(one), AttributionTree(other)
        assert [edge[:3] for edge in tree.edges] == [edge[:3] for edge in expected.edges]
    visualize_explanation(ours[0])
    assert Report(ours[0]).save(tmp_path / "page.html").is_file()
    ours[0].save(tmp_path / "explanation")


def test_trees_of_attributions_on_the_gpu():
    (theirs, _), (ours, _) = (attribute(device, "joint", n_steps=4) for device in both_devices)
    trees = [AttributionTree([one[0] for one in found]) for found in (ours, theirs)]
    assert [edge[:3] for edge in trees[0].edges] == [edge[:3] for edge in trees[1].edges]


@pytest.mark.parametrize("measure", MEASURES)
def test_head_importance(measure):
    found = []
    for device in both_devices:
        model, tokenizer = demo(device)
        importance = HeadImportance(model, measure=measure)
        importance.update(tokenizer(TEXTS, padding=True, return_tensors="pt"), [1, 0, 0])
        found.append(importance.compute())
    assert found[1].scores.device.type == "cpu"
    assert_agree(found[1].scores, found[0].scores, digits=1e-9)


def test_importance_begun_on_the_gpu_goes_on_on_the_cpu():
    model, tokenizer = demo("cuda")
    state = HeadImportance(model)
    state.update(tokenizer(TEXTS[:2], padding=True, return_tensors="pt"), [1, 0])
    again = HeadImportance(demo("cpu")[0])
    again.load_state_dict(state.state_dict())
    again.update(tokenizer(TEXTS[2:], return_tensors="pt"), [0])
    whole = HeadImportance(demo("cpu")[0])
    whole.update(tokenizer(TEXTS, padding=True, return_tensors="pt"), [1, 0, 0])
    assert_agree(again.compute().scores, whole.compute().scores, digits=1e-9)


def test_heads_switched_off_and_cut_out(tmp_path):
    heads = {0: [0, 5], 3: list(range(12))}
    ids, mask = encoded("cuda")
    model = copy.deepcopy(demo("cuda")[0])
    forward = torch.no_grad()(probabilities(model))
    with mask_heads(model, heads):
        expected = forward(ids, mask)
    prune_heads(model, heads)
    assert all(parameter.device.type == "cuda" for parameter in model.parameters())
    assert_agree(forward(ids, mask), expected)
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path, dtype=torch.float64)
    assert_agree(probabilities(loaded)(*encoded("cpu")).detach(), expected.cpu())
    method = SelfAttentionAttribution(probabilities(model), attention_layers(model))
    found = [method.attribute(ids, None, 1, mask, 3)]
    method = SelfAttentionAttribution(probabilities(loaded), attention_layers(loaded))
    assert_same(found[0], method.attribute(encoded("cpu")[0], None, 1, encoded("cpu")[1], 3), 1e-9)


def test_faithfulness():
    found = []
    for device in both_devices:
        model, (ids, mask) = demo(device)[0], encoded(device)
        attributions, _ = attribute(device, "joint", n_steps=4)
        tokens = TokenRemoval(probabilities(model), ids, mask, target=1)
        looks = EdgeRemoval(probabilities(model), attention_layers(model), ids, mask, target=1)
        scores = token_scores(attributions)
        effects = leave_one_out(tokens)
        found.append(
            [
                comprehensiveness(tokens, scores, (0.2, 0.5)),
                comprehensiveness(looks, attributions, (0.01, 0.1)),
                agreement(tokens, scores, effects),
            ]
        )
    for one, other in zip(found[1], found[0], strict=True):
        assert_agree(one.cpu(), other, digits=1e-9)


def test_triggers():
    theirs, ours = (extract_triggers(TEXTS, *demo(device), threshold=0.0) for device in both_devices)
    assert [trigger.words for trigger in ours] == [trigger.words for trigger in theirs]
    assert [trigger.score for trigger in ours] == pytest.approx([trigger.score for trigger in theirs], rel=1e-6)


def test_rough_layers_are_found():
    found = []
    for device in both_devices:
        model, (ids, mask) = demo(device)[0], encoded(device)
        layers = attention_layers(model)
        rough = rough_layers(probabilities(model), layers, ids, 1, mask)
        found.append([layers.index(layer) for layer in rough])
    assert found[0] == found[1]


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute("cuda", "layerwise", tolerance=0.01)
        attribute("cuda", "joint", tolerance=0.01)
