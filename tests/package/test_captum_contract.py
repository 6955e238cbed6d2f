"""The method behaves like any other of Captum's: shapes, targets, arguments, and company."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_agree
from captum.attr import Attribution, GradientAttribution, LayerAttribution, LayerIntegratedGradients, NoiseTunnel
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from tiny_models import FAMILIES, case

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.demo import load_demo

BERT = FAMILIES[0]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])


@pytest.fixture(scope="module")
def c():
    return case(BERT)


@pytest.fixture(scope="module")
def layers(c):
    return attention_layers(c.model)


@pytest.fixture(scope="module")
def attributions(c, layers):
    """Attributions in layer 1 for each class, (class, batch, head, query, key)."""
    method = SelfAttentionAttribution(c.forward, layers[1])
    return torch.stack([attribute(method, c, target=target) for target in range(3)])


def attribute(method, c, **options):
    options = {"additional_forward_args": c.mask, "n_steps": 3, **options}
    return method.attribute(c.inputs, **options)


def assert_same(one, other):
    assert other.abs().max() > 0
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


# What goes in is what comes out


@both_paths
def test_one_module_gives_one_tensor(c, layers, path):
    result, delta = attribute(
        SelfAttentionAttribution(c.forward, layers[1], path=path), c, target=1, return_convergence_delta=True
    )
    assert result.shape == (2, 4, 7, 7)
    assert delta.shape == (2,)


@both_paths
@pytest.mark.parametrize("places", [[0], [2, 0], [0, 1, 2]])
def test_a_list_gives_a_list_in_its_order(c, layers, path, places):
    some = [layers[place] for place in places]
    result, delta = attribute(
        SelfAttentionAttribution(c.forward, some, path=path), c, target=1, return_convergence_delta=True
    )
    assert isinstance(result, list)
    assert [one.shape for one in result] == [(2, 4, 7, 7)] * len(places)
    if path == "joint":
        assert delta.shape == (2,)
    else:
        assert [one.shape for one in delta] == [(2,)] * len(places)
        for one, place in zip(result, places, strict=True):
            assert_same(one, attribute(SelfAttentionAttribution(c.forward, layers[place]), c, target=1))


def test_it_is_one_of_captums_methods(c, layers):
    method = SelfAttentionAttribution(c.forward, layers[1])
    assert all(isinstance(method, kind) for kind in (Attribution, LayerAttribution, GradientAttribution))
    assert method.get_name() == "Self Attention Attribution"
    assert method.has_convergence_delta() is True
    assert method.multiplies_by_inputs is True
    assert SelfAttentionAttribution(c.forward, layers[1], multiply_by_inputs=False).multiplies_by_inputs is False
    assert method.forward_func == c.forward
    assert method.layer is layers[1]


def test_attribute_without_its_log_is_at_wrapped(c, layers, attributions):
    method = SelfAttentionAttribution(c.forward, layers[1])
    plain = SelfAttentionAttribution.attribute.__wrapped__
    assert_same(plain(method, c.inputs, None, 1, c.mask, 3), attributions[1])


# Targets


def two_by_three(c):
    """(batch, 2, 3): the probabilities and twice the probabilities."""
    return lambda *args: c.forward(*args).unsqueeze(1) * torch.tensor([[1.0], [2.0]], device=c.inputs.device)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (2, [2, 2]),
        (torch.tensor(2), [2, 2]),
        (torch.tensor([2]), [2, 2]),
        ([0, 2], [0, 2]),
        (torch.tensor([0, 2]), [0, 2]),
        ((2,), [2, 2]),
        ([(0,), (2,)], [0, 2]),
    ],
    ids=str,
)
def test_every_form_of_target(c, layers, attributions, target, classes):
    result = attribute(SelfAttentionAttribution(c.forward, layers[1]), c, target=target)
    assert_same(result, attributions[classes, [0, 1]])


@pytest.mark.parametrize(
    ("target", "places"), [((1, 2), [(1, 2), (1, 2)]), ([(0, 1), (1, 0)], [(0, 1), (1, 0)])], ids=str
)
def test_targets_in_an_output_of_three_axes(c, layers, attributions, target, places):
    result = attribute(SelfAttentionAttribution(two_by_three(c), layers[1]), c, target=target)
    expected = [(1 + row) * attributions[column, example] for example, (row, column) in enumerate(places)]
    assert_same(result, torch.stack(expected))


@pytest.mark.parametrize("pick", [lambda p: p[:, 1], lambda p: p[:, 1:2]], ids=["(batch,)", "(batch, 1)"])
def test_one_number_per_example_needs_no_target(c, layers, attributions, pick):
    method = SelfAttentionAttribution(lambda *args: pick(c.forward(*args)), layers[1])
    assert_same(attribute(method, c), attributions[1])


@pytest.mark.parametrize("rows", [None, 1])
def test_a_single_number_for_one_example(c, layers, attributions, rows):
    method = SelfAttentionAttribution(lambda *args: c.forward(*args)[:, 1].squeeze(), layers[1])
    one = method.attribute(c.inputs[:1], additional_forward_args=c.mask[:1], n_steps=3, internal_batch_size=rows)
    assert_same(one, attributions[1, :1])


# Forward functions


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: model.forward,
        lambda model: lambda ids, mask: model(ids, attention_mask=mask),
        lambda model: lambda ids, mask: model(ids, mask).logits,
        lambda model: lambda ids, mask: model.classifier(model.dropout(model.bert(ids, mask).pooler_output)),
    ],
    ids=["model", "bound method", "lambda", "tensor", "by parts"],
)
def test_every_form_of_forward_function(c, layers, wrap):
    expected = SelfAttentionAttribution(lambda ids, mask: c.model(ids, mask)["logits"][:, 1], layers[1])
    assert_same(attribute(SelfAttentionAttribution(wrap(c.model), layers[1]), c, target=1), attribute(expected, c))


def test_the_forward_function_is_read_at_call_time(c, layers, attributions):
    method = SelfAttentionAttribution(c.forward, layers[1])
    method.forward_func = lambda *args: 3 * c.forward(*args)
    assert_same(attribute(method, c, target=1), 3 * attributions[1])


# Arguments


def test_a_tuple_of_inputs(c, layers, attributions):
    method = SelfAttentionAttribution(c.forward, layers[1])
    assert_same(method.attribute((c.inputs, c.mask), target=1, n_steps=3), attributions[1])
    assert_same(method.attribute((c.inputs,), target=1, n_steps=3, additional_forward_args=(c.mask,)), attributions[1])


def test_float_inputs(c, layers, attributions):
    embeddings = c.model.bert.embeddings.word_embeddings(c.inputs).detach()
    method = SelfAttentionAttribution(
        lambda e, mask: c.model(inputs_embeds=e, attention_mask=mask).logits.softmax(-1), layers[1]
    )
    for given in (embeddings, embeddings.clone().requires_grad_()):
        assert_same(method.attribute(given, target=1, additional_forward_args=c.mask, n_steps=3), attributions[1])
        assert given.grad is None


def test_further_arguments_of_any_type(c, layers, attributions):
    extra = ("a text", True, {"factor": 2}, 3, None, torch.tensor([[10.0], [100.0]], dtype=torch.float64))
    seen = []

    def forward(ids, mask, text, flag, options, number, nothing, rows):
        seen.append((text, flag, options, number, nothing))
        return rows * options["factor"] * c.forward(ids, mask)

    method = SelfAttentionAttribution(forward, layers[1])
    result = attribute(method, c, target=1, additional_forward_args=(c.mask, *extra))
    assert_same(result, attributions[1] * torch.tensor([20.0, 200.0]).view(2, 1, 1, 1))
    assert all(arguments == extra[:-1] for arguments in seen)


@pytest.mark.parametrize("argument", ["a text", True, 3, 2.5, {"a": 1}, [1, 2], torch.tensor(4.0)], ids=str)
def test_one_further_argument_needs_no_tuple(c, layers, attributions, argument):
    seen = []

    def forward(ids, given):
        seen.append(given)
        return c.forward(ids, c.mask[:1].expand_as(ids))

    result = SelfAttentionAttribution(forward, layers[1]).attribute(
        c.inputs[:1], target=1, additional_forward_args=argument, n_steps=3
    )
    assert_same(result, attributions[1, :1])
    assert len(seen) > 1
    assert all(type(given) is type(argument) and given == argument for given in seen)


@both_paths
def test_too_small_an_internal_batch_size_warns_and_goes_on(c, layers, path):
    method = SelfAttentionAttribution(c.forward, layers, path=path)
    expected = attribute(method, c, target=1)
    with pytest.warns(UserWarning, match="internal_batch_size=1 is smaller than the number of examples"):
        result = attribute(method, c, target=1, internal_batch_size=1)
    for one, other in zip(result, expected, strict=True):
        assert_same(one, other)


def test_the_input_of_a_layer_is_refused_with_a_reason(c, layers):
    method = SelfAttentionAttribution(c.forward, layers)
    how = {"target": 1, "additional_forward_args": c.mask, "n_steps": 2}
    method.attribute(c.inputs, **how, attribute_to_layer_input=False)
    with pytest.raises(ValueError, match="attention is explained, not its input or output"):
        method.attribute(c.inputs, **how, attribute_to_layer_input=True)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("baselines", [None, 3])
def test_it_works_where_gradients_are_off(path, dtype, mode, baselines):
    c = case(BERT, dtype=dtype)
    method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
    options = {"target": 1, "return_convergence_delta": True, "baselines": baselines}
    expected, expected_delta = attribute(method, c, **options)
    with mode():
        result, delta = attribute(method, c, **options)
    for one, other in zip(result, expected, strict=True):
        assert not one.requires_grad
        assert_agree(one, other)
    assert_agree(delta, expected_delta, size=1.0)


@both_paths
def test_inputs_made_in_inference_mode(c, layers, path):
    with torch.inference_mode():
        ids, mask = c.inputs.clone(), c.mask.clone()
        embeddings = c.model.bert.embeddings.word_embeddings(ids)
    by_embeddings = lambda e, mask: c.model(inputs_embeds=e, attention_mask=mask).logits.softmax(-1)
    expected = attribute(SelfAttentionAttribution(c.forward, layers, path=path), c, target=1)
    for forward, inputs in [(c.forward, ids), (by_embeddings, embeddings)]:
        method = SelfAttentionAttribution(forward, layers, path=path)
        for one, other in zip(method.attribute(inputs, None, 1, mask, 3), expected, strict=True):
            assert_same(one, other)


@both_paths
@pytest.mark.parametrize("listed", [True, False], ids=["list", "module"])
@pytest.mark.parametrize(
    "start", [{}, {"baselines": 3}, {"attention_baselines": "uniform"}], ids=["zero", "inputs", "attention"]
)
def test_the_delta_can_be_computed_afterwards(c, layers, path, listed, start):
    method = SelfAttentionAttribution(c.forward, layers if listed else layers[0], path=path)
    attributions, delta = attribute(method, c, target=1, return_convergence_delta=True, **start)
    start = dict(start)
    later = method.compute_convergence_delta(attributions, start.pop("baselines", None), c.inputs, 1, c.mask, **start)
    torch.testing.assert_close(later, delta, atol=1e-12, rtol=1e-9)


def test_progress_is_shown_on_standard_error_only_if_asked_for(c, layers, capsys):
    method = SelfAttentionAttribution(c.forward, layers)
    attribute(method, c, target=1)
    assert capsys.readouterr() == ("", "")
    attribute(method, c, target=1, show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Self Attention Attribution: 100%" in err
    assert "18/18" in err  # layers x steps x examples


# In company, with trained weights


@pytest.fixture(scope="module")
def demo():
    model, tokenizer = load_demo()
    batch = tokenizer(["A warm, funny film.", "The plot was dull."], padding=True, return_tensors="pt")
    return model, batch["input_ids"], batch["attention_mask"]


@pytest.fixture(scope="module")
def by_embeddings(demo):
    """The method over word vectors of the trained model, the vectors, and their mask."""
    model, ids, mask = demo
    embeddings = model.get_input_embeddings()(ids).detach()
    forward = lambda e, mask: model(inputs_embeds=e, attention_mask=mask).logits.softmax(-1)
    return SelfAttentionAttribution(forward, attention_layers(model)[3]), embeddings, mask


def test_noise_tunnel_gives_the_mean_over_noisy_inputs(by_embeddings):
    method, embeddings, mask = by_embeddings
    forward, noisy = method.forward_func, []

    def watched(e, mask):
        noisy.append(e.detach().clone())
        return forward(e, mask)

    torch.manual_seed(0)
    method.forward_func = watched
    try:
        smooth, delta = NoiseTunnel(method).attribute(
            embeddings, nt_samples=2, stdevs=0.01, target=1, additional_forward_args=mask, n_steps=4,
            return_convergence_delta=True,
        )  # fmt: skip
    finally:
        method.forward_func = forward
    samples = noisy[0].unflatten(0, (2, 2))
    assert not torch.equal(samples[:, 0], samples[:, 1])
    each = [method.attribute(samples[:, i], None, 1, mask, 4) for i in range(2)]
    torch.testing.assert_close(smooth, sum(each) / 2, atol=1e-6, rtol=1e-4)
    assert smooth.abs().max() > 1e-4
    assert delta.shape == (4,)


def test_sensitivity_max(by_embeddings):
    method, embeddings, mask = by_embeddings
    # Of every layer method Captum's metric wants a tuple: it takes the rows of a bare tensor for several tensors.
    explain = lambda *args, **options: (method.attribute(*args, **options),)
    torch.manual_seed(0)
    score = sensitivity_max(explain, embeddings, n_perturb_samples=2, target=1, additional_forward_args=mask, n_steps=4)
    assert score.shape == (2,)
    assert torch.isfinite(score).all()
    assert (score > 0).all()


def whole_change(attention, *_):
    return attention, torch.zeros_like(attention)


@infidelity_perturb_func_decorator(True)
def whole_change_of_attributions(attention, *_):
    return torch.zeros_like(attention)


@pytest.mark.parametrize(
    ("multiplied", "perturb"),
    [(False, whole_change), (True, whole_change_of_attributions)],
    ids=["mean gradients", "attributions"],
)
def test_infidelity_over_the_whole_path_is_the_squared_error_of_completeness(demo, multiplied, perturb):
    model, ids, mask = demo
    layer = attention_layers(model)[2]
    method = SelfAttentionAttribution(lambda *args: model(*args).logits, layer, multiply_by_inputs=multiplied)
    attributions, delta = method.attribute(ids, None, 1, mask, return_convergence_delta=True)
    function = method.attention_function(ids, mask)

    def score(attributions):
        return infidelity(
            function, perturb, function.attention[0], attributions, n_perturb_samples=2, target=1,
            additional_forward_args=function.examples,
        )  # fmt: skip

    with torch.no_grad():
        change = (function(*function.attention) - function(torch.zeros_like(function.attention[0])))[:, 1]
    assert (change.abs() > 1e-2).all()
    torch.testing.assert_close(score(attributions), delta.square(), atol=1e-6, rtol=1e-2)
    assert (score(attributions) < 1e-6).all()
    torch.testing.assert_close(score(-attributions), 4 * change.square(), atol=1e-6, rtol=1e-2)


def test_beside_layer_integrated_gradients_on_one_forward_function(demo):
    model, ids, mask = demo
    forward = lambda ids, mask: model(ids, attention_mask=mask).logits
    baseline = torch.zeros_like(ids)
    tokens = LayerIntegratedGradients(forward, model.bert.embeddings)
    pairs = SelfAttentionAttribution(forward, attention_layers(model)[2])
    with torch.no_grad():
        output, start = (forward(x, mask)[:, 1] for x in (ids, baseline))
    without = pairs.attention_function(ids, mask)
    for _ in range(2):  # in turn: neither disturbs the other
        by_token = tokens.attribute(ids, baseline, target=1, additional_forward_args=mask, n_steps=100)
        torch.testing.assert_close(by_token.sum((1, 2)), output - start, atol=2e-2, rtol=1e-2)
        by_pair = pairs.attribute(ids, None, 1, mask)
        removed = without(torch.zeros_like(without.attention[0])).detach()[:, 1]
        torch.testing.assert_close(by_pair.sum((1, 2, 3)), output - removed, atol=1e-3, rtol=1e-3)
