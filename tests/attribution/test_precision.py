"""Half precision, autocast and double: the path is walked in the model's type, sums are kept in float32 or wider.

Measured on the 60 reviews of the bundled model: relative L2 error of a layer's attributions in one sentence against
float32, median / worst of those with a norm above 0.01, the worse of both paths:

    model or autocast    F = logit        F = probability
    bfloat16             1.6% / 4.0%      1.7% / 9.1%
    bfloat16 autocast    1.2% / 3.0%      1.3% / 6.7%
    float16              0.2% / 0.5%      0.2% / 0.6%
    float16 autocast     0.1% / 0.3%      0.1% / 1.0%

Below that norm (a probability near 0 or 1, which bfloat16 rounds to eight bits) errors reach 58%, 0.0008 in all.
"""

from __future__ import annotations

import pytest
import torch
from agreement import assert_agree
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.demo import load_demo

BERT = FAMILIES[0]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

TOLERANCE = {
    torch.bfloat16: {"logit": 0.05, "probability": 0.1},
    torch.float16: {"logit": 0.006, "probability": 0.012},
}
NEGLIGIBLE = 0.01
halves = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)

OUTPUTS = {
    "logit": lambda model: lambda ids, mask: model(ids, attention_mask=mask),
    "probability": lambda model: lambda ids, mask: model(ids, attention_mask=mask).logits.softmax(-1),
}
outputs = pytest.mark.parametrize("output", list(OUTPUTS))


@pytest.fixture(scope="module")
def batch():
    # Of a probability near 0 or 1 little can change: these two are between 0.35 and 0.65.
    texts = [
        "The dialogue sparkles and the camera seems to dance along with it.",
        "The romance has all the heat of a cold cup of tea.",
    ]
    encoded = load_demo()[1](texts, padding=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.fixture(scope="module")
def models():
    return {dtype: load_demo(dtype=dtype)[0] for dtype in (torch.float32, *TOLERANCE)}


def attribute(model, batch, output="logit", path="layerwise", **options):
    ids, mask = batch
    options = {"target": 1, "n_steps": 3, **options}
    method = SelfAttentionAttribution(OUTPUTS[output](model), attention_layers(model), path=path)
    return method.attribute(ids, additional_forward_args=mask, **options)


@pytest.fixture(scope="module")
def exact(models, batch):
    return {
        (output, path): attribute(models[torch.float32], batch, output, path)
        for output in OUTPUTS
        for path in ("layerwise", "joint")
    }


def assert_near(attributions, exact, tolerance):
    """Each sentence in each layer, relative to the size of its attributions or to what would be negligible."""
    for ours, theirs in zip(attributions, exact, strict=True):
        assert ours.dtype == torch.float32
        size = theirs.flatten(1).norm(dim=1)
        assert (size > NEGLIGIBLE).any()
        error = (ours - theirs).flatten(1).norm(dim=1)
        assert (error <= tolerance * size.clamp(min=NEGLIGIBLE)).all()


@halves
@both_paths
@outputs
def test_a_model_in_half_precision_is_near_itself_in_float32(models, batch, exact, dtype, path, output):
    attributions, delta = attribute(models[dtype], batch, output, path, return_convergence_delta=True)
    assert_near(attributions, exact[output, path], TOLERANCE[dtype][output])
    deltas = [delta] if path == "joint" else delta
    assert all(one.dtype == torch.float32 for one in deltas)
    assert all((one.abs() < 0.1).all() for one in deltas)


@halves
@both_paths
def test_autocast_is_near_float32_and_left_on(models, batch, exact, dtype, path):
    with torch.autocast("cpu", dtype):
        attributions = attribute(models[torch.float32], batch, "probability", path)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == dtype
    assert not torch.is_autocast_enabled("cpu")
    assert_near(attributions, exact["probability", path], TOLERANCE[dtype]["probability"])


@both_paths
def test_every_run_of_the_model_is_under_the_users_autocast(models, batch, path):
    model, seen = models[torch.float32], set()
    handle = model.classifier.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    try:
        attribute(model, batch, path=path)
        assert seen == {torch.float32}
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            attribute(model, batch, path=path)
        assert seen == {torch.bfloat16}
    finally:
        handle.remove()


@both_paths
def test_autocast_inside_the_forward_function(models, batch, exact, path):
    model = models[torch.float32]

    def forward(ids, mask):
        with torch.autocast("cpu", torch.bfloat16):
            return model(ids, attention_mask=mask).logits

    method = SelfAttentionAttribution(forward, attention_layers(model), path=path)
    attributions = method.attribute(batch[0], None, 1, batch[1], 3)
    assert_near(attributions, exact["logit", path], TOLERANCE[torch.bfloat16]["logit"])


def test_training_goes_on_under_the_same_autocast(batch):
    """Autocast keeps the weights that it has cast: those of the method have no gradient and must not stay."""
    model, _ = load_demo()
    with torch.autocast("cpu", torch.bfloat16):
        attribute(model, batch, n_steps=2)
        model(*batch).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@halves
@both_paths
def test_sums_are_kept_in_float32(models, batch, dtype, path):
    """Forty terms added in the model's type one after another would lose digits that float32 keeps.

    Measured: chunks change 0.07 of the type's last digit at most, sums in the model's type 0.4 to 1.8.
    """
    model, (ids, mask) = models[dtype], batch
    method = SelfAttentionAttribution(OUTPUTS["logit"](model), attention_layers(model)[4:], path=path)
    whole, one_by_one = (
        method.attribute(ids[:1], None, 1, mask[:1], n_steps=40, internal_batch_size=rows) for rows in (40, 1)
    )
    for one, other in zip(one_by_one, whole, strict=True):
        assert not torch.equal(one, one.to(dtype).float())
        assert (one - other).norm() <= 0.15 * torch.finfo(dtype).eps * other.norm()


@families
@both_paths
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_result_is_float32_or_wider_and_where_the_model_is(family, path, dtype):
    c = case(family, dtype=dtype)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    attributions, delta = method.attribute(c.inputs, None, 1, c.mask, 2, return_convergence_delta=True)
    for one in (*attributions, *([delta] if path == "joint" else delta)):
        assert one.dtype == torch.promote_types(dtype, torch.float32)
        assert one.device == next(c.model.parameters()).device
        assert torch.isfinite(one).all()
    assert attributions[0].abs().max() > 0


@both_paths
def test_double_precision_is_used_to_its_end(path):
    """The same computation in float32 differs from the eighth digit on, in float64 only from the fifteenth."""
    c = case(BERT)
    layers = attention_layers(c.model)
    method = SelfAttentionAttribution(c.forward, layers, path=path)
    _, delta = method.attribute(c.inputs, None, 1, c.mask, 30, return_convergence_delta=True)
    assert all((one.abs() < 1e-14).all() for one in ([delta] if path == "joint" else delta))


@both_paths
def test_ids_of_either_integer_type(path):
    c = case(BERT)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    expected = method.attribute(c.inputs, None, 1, c.mask, 2)
    for dtype in (torch.int64, torch.int32):
        attributions = method.attribute(c.inputs.to(dtype), None, 1, c.mask.to(dtype), 2)
        assert_agree(attributions, expected)


@halves
def test_float_inputs_in_the_models_type(models, batch, dtype):
    model, (ids, mask) = models[dtype], batch
    embeddings = model.get_input_embeddings()(ids)
    assert embeddings.dtype == dtype
    method = SelfAttentionAttribution(
        lambda e, mask: model(inputs_embeds=e, attention_mask=mask), attention_layers(model)
    )
    assert_near(method.attribute(embeddings, None, 1, mask, 3), attribute(model, batch), TOLERANCE[dtype]["logit"])


@families
@pytest.mark.parametrize(
    ("path", "options"), [("layerwise", {"n_steps": 3}), ("joint", {"tolerance": 1e-3, "n_steps": 60})]
)
def test_other_defaults_of_torch_change_nothing(family, path, options):
    """What the package makes for itself lies on the CPU, whichever device tensors are made on by default."""
    c = case(family)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    how = {"target": [1, 2], "additional_forward_args": c.mask, "return_convergence_delta": True, **options}
    expected, delta = method.attribute(c.inputs, **how)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            method = SelfAttentionAttribution(on_its_own_device(c), attention_layers(c.model), path=path)
            found, found_delta = method.attribute(c.inputs, **how)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_agree(found, expected, digits=family.rounding)
    assert_agree(found_delta, delta, digits=family.rounding, size=1.0)


def on_its_own_device(c):
    """Models make tensors of their own, for their masks say, which meta's would not be."""

    def forward(*args):
        with torch.device(c.inputs.device):
            return c.forward(*args)

    return forward
