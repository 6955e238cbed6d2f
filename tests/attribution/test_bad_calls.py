"""Wrong calls: each gets a clear error with what to do about it, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from agreement import assert_agree
from oracles import injected
from snapshot import untouched
from tiny_models import FAMILIES, SMALL, Case, case
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_attattr import AttentionFunction, SelfAttentionAttribution, UnsupportedModelError, attention_layers
from captum_attattr.engine.quadrature import METHODS, quadrature

__all__ = ["untouched"]

BY_NAME = {family.name: family for family in FAMILIES}
BERT, GPT2 = BY_NAME["bert"], BY_NAME["gpt2"]
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])


@dataclass(frozen=True)
class Bad:
    """A bad call, of a case and a path, what it says, and what it raises."""

    name: str
    call: Callable[[Case, str], Any]
    message: str
    kind: type[Exception] = ValueError


def bad_calls(*calls: Bad) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", calls, ids=lambda bad: bad.name)


def attribute(c: Case, forward=None, inputs=None, mask=None, layer=None, path="layerwise", **options):
    layer = attention_layers(c.model) if layer is None else layer
    options = {"target": 1, "n_steps": 2, **options}
    return SelfAttentionAttribution(forward or c.forward, layer, path=path).attribute(
        c.inputs if inputs is None else inputs,
        additional_forward_args=c.mask if mask is None else mask,
        return_convergence_delta=True,
        **options,
    )


def with_(**options) -> Callable[[Case, str], Any]:
    return lambda c, path: attribute(c, path=path, **options)


def forward_of(make: Callable[[Case], Callable[..., Any]], **options) -> Callable[[Case, str], Any]:
    """The case's call with another forward function, made from its own."""
    return lambda c, path: attribute(c, make(c), path=path, **options)


def output_of(change: Callable[[torch.Tensor], Any], **options) -> Callable[[Case, str], Any]:
    return forward_of(lambda c: lambda *args: change(c.forward(*args)), **options)


def layer_of(pick: Callable[[nn.Module], Any]) -> Callable[[Case, str], Any]:
    def call(c, path):
        return SelfAttentionAttribution(c.forward, pick(c.model), path=path).attribute(c.inputs, None, 1, c.mask)

    return call


def function_of(rows: int, tokens: int, n_layers: int) -> Callable[[Case, str], Any]:
    def call(c, path):
        layers = attention_layers(c.model)[:n_layers]
        return AttentionFunction(c.forward, layers, c.inputs, c.mask)(torch.zeros(rows, 4, tokens, tokens))

    return call


def delta_of(*shapes: tuple[int, ...]) -> Callable[[Case, str], Any]:
    def call(c, path):
        method = SelfAttentionAttribution(c.forward, attention_layers(c.model), path=path)
        return method.compute_convergence_delta([torch.zeros(shape) for shape in shapes], None, c.inputs, 1, c.mask)

    return call


@pytest.fixture
def refused(untouched):
    """The call raises with this message, and leaves the case's model as it was."""

    def check(call, message, c, path="layerwise", kind=ValueError):
        with untouched(c.model, lambda: c.forward(c.inputs, c.mask)), pytest.raises(kind, match=message):
            call(c, path)

    return check


# Layers


@bad_calls(
    Bad("the model", layer_of(lambda m: m), "BertForSequenceClassification is not an attention layer.* holds 3"),
    Bad(
        "a block", layer_of(lambda m: m.bert.encoder.layer[0]), "BertLayer is not an attention layer.*attention_layers"
    ),
    Bad("around one", layer_of(lambda m: m.bert.encoder.layer[0].attention), "BertAttention is not .* holds 1"),
    Bad("a linear layer", layer_of(lambda m: m.classifier), "Linear has no attention layer", UnsupportedModelError),
    Bad("one of two", layer_of(lambda m: [*attention_layers(m), m.bert]), "BertModel is not an attention layer"),
    Bad(
        "a name",
        layer_of(lambda m: "bert.encoder.layer.0"),
        "must be a module or a list of modules, got str",
        TypeError,
    ),
    Bad("a number", layer_of(lambda m: [0, 1]), "must be a module or a list of modules, got int", TypeError),
    Bad("none", layer_of(lambda m: None), "must be a module or a list of modules, got NoneType", TypeError),
    Bad("nested", layer_of(lambda m: [attention_layers(m)]), "must be a module .*, got list", TypeError),
    Bad("an empty list", layer_of(lambda m: []), "empty list: give at least one"),
    Bad("no module", lambda c, path: attention_layers(c.forward), "needs a torch.nn.Module, got method", TypeError),
)
def test_layers_that_are_none(bad, refused):
    refused(bad.call, bad.message, case(BERT), kind=bad.kind)


@pytest.mark.parametrize("path", ["both", "Joint", None])
def test_an_unknown_path(path, refused):
    refused(with_(), f"Unknown path {path!r}. Choose 'layerwise' or 'joint'", case(BERT), path)


@pytest.mark.parametrize("part", ["", "encoder.layer.0.attention.self"])
def test_attention_that_is_no_softmax(part):
    model = hf.YosoModel(hf.YosoConfig(**SMALL)).eval()
    with pytest.raises(UnsupportedModelError, match="has no attention layer that can be followed"):
        attention_layers(model)
    with pytest.raises(UnsupportedModelError, match="has no attention layer"):
        SelfAttentionAttribution(model, model.get_submodule(part))


@both_paths
def test_a_layer_of_another_model(path, refused, untouched):
    c, other = case(BERT), case(BERT, seed=1)
    layers = [attention_layers(c.model)[0], attention_layers(other.model)[1]]
    with untouched(other.model, lambda: other.forward(other.inputs, other.mask)):
        refused(
            with_(layer=layers),
            r"reached 1 of the 2 .* 1 \(BertSelfAttention\), .* Is each a layer of the model",
            c,
            path,
        )


@both_paths
def test_a_layer_that_is_not_reached(path, refused):
    def lowest_block_only(c):
        bert = c.model.bert
        return lambda ids, mask: c.model.classifier(bert.encoder.layer[0](bert.embeddings(ids))[:, 0])

    refused(forward_of(lowest_block_only), r"never reached the attention of 1, 2 \(Bert", case(BERT), path)


@both_paths
def test_a_layer_given_twice(path, refused):
    twice = layer_of(lambda model: attention_layers(model)[:1] * 2)
    refused(twice, "runs 1 times in one pass .* is listed 2 times", case(BERT), path)


def test_an_implementation_without_probabilities(untouched):
    c = case(BERT)
    c.model.config._attn_implementation_internal = "flash_attention_2"
    with (
        untouched(c.model, lambda: torch.zeros(1)),
        pytest.raises(UnsupportedModelError, match=r"attn_implementation='flash_attention_2'.*Load it with .*'sdpa'"),
    ):
        attribute(c)
    assert c.model.config._attn_implementation == "flash_attention_2"


# What is shared: ALBERT runs one attention layer once a block


@pytest.fixture
def albert() -> Case:
    torch.manual_seed(0)
    config = hf.AlbertConfig(**SMALL, embedding_size=16, num_labels=3)
    model = hf.AlbertForSequenceClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    bert = case(BERT)
    return Case(model, bert.inputs, bert.mask)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_shared_layer_listed_too_often_or_not_enough(albert, times, refused):
    (layer,) = attention_layers(albert.model)
    message = rf"AlbertAttention runs 3 times .* listed {times} times.*once for each.*layer=\[attention\] \* 3"
    refused(with_(layer=layer if times == 1 else [layer] * times), message, albert)


@both_paths
def test_a_shared_layer_listed_once_for_each_call(albert, path, untouched):
    """Equal to the direct computation, with the matrices themselves in the graph."""
    layers = attention_layers(albert.model) * 3
    nodes, weights = quadrature("gausslegendre", 8)
    with untouched(albert.model, lambda: albert.forward(albert.inputs, albert.mask)):
        attributions, delta = attribute(albert, layer=layers, path=path, n_steps=8)
    function = AttentionFunction(albert.forward, layers, albert.inputs, albert.mask)
    clean = function.attention
    groups = [(0, 1, 2)] if path == "joint" else [(0,), (1,), (2,)]
    for group in groups:
        # The rows of padding do not count: they stay as they are.
        starts = [torch.where(albert.padding[:, None, :, None], clean[i], 0) for i in group]
        total = [torch.zeros_like(start) for start in starts]
        for node, weight in zip(nodes, weights, strict=True):
            points = [(s + node * (clean[i] - s)).requires_grad_() for i, s in zip(group, starts, strict=True)]
            value = one_call_replaced(albert, dict(zip(group, points, strict=True)))
            for sum_, gradient in zip(total, torch.autograd.grad(value.sum(), points), strict=True):
                sum_ += weight * gradient
        for i, start, gradient in zip(group, starts, total, strict=True):
            theirs = (clean[i] - start) * gradient
            assert theirs.abs().max() > 1e-6
            torch.testing.assert_close(attributions[i], theirs, atol=1e-9 * float(theirs.abs().max()), rtol=0)
    assert all((one.abs() < 1e-3).all() for one in ([delta] if path == "joint" else delta))


def one_call_replaced(c: Case, attention: dict[int, torch.Tensor]) -> torch.Tensor:
    """F of class 1 with the matrices of some of the calls put in by the test's own attention function."""
    calls = iter(range(3))
    with injected(c.model, lambda module, own: attention.get(next(calls), own)):
        return c.forward(c.inputs, c.mask)[:, 1]


# Models that are not functions


def training(family) -> Case:
    c = case(family)
    c.model.train()
    return c


@both_paths
@pytest.mark.parametrize("name", ["bert", "gpt2", "distilbert", "vit"])
def test_training_mode_with_dropout(name, path, refused):
    c = training(BY_NAME[name])
    if name == "vit":  # it has none by default
        for module in c.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
    refused(with_(), r"training mode and drops out at random.*Call model\.eval\(\) first", c, path)
    assert c.model.training


def test_training_mode_with_dropout_of_attention_only(refused):
    c = training(BERT)
    for name, module in c.model.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("attention.self.dropout"):
            module.p = 0.0
    refused(with_(), "training mode and drops out at random", c)


@both_paths
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_training_mode_without_dropout_is_fine(name, path, untouched):
    c = training(BY_NAME[name])
    for module in c.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with untouched(c.model, lambda: c.forward(c.inputs, c.mask)):
        attributions, _ = attribute(c, path=path)
    expected, _ = attribute(case(BY_NAME[name]), path=path)
    assert_agree(attributions, expected)


@pytest.mark.filterwarnings("ignore:Replaying from")
@both_paths
@bad_calls(
    Bad("noise", output_of(lambda p: p + 0.01 * torch.rand_like(p)), "two different outputs for the same input"),
    Bad("one noise", output_of(lambda p: p + torch.rand(())), "two different outputs .*random"),
    Bad("a user's dropout", output_of(lambda p: nn.functional.dropout(p.repeat(1, 20), 0.5)), "two different outputs"),
    Bad("across the batch", output_of(lambda p: p - p.mean(0)), "reorders or mixes the examples of a batch"),
)
def test_forward_functions_that_are_none(bad, path, refused):
    refused(bad.call, bad.message, case(BERT), path, bad.kind)


# Targets


@both_paths
@bad_calls(
    Bad("missing", with_(target=None), r"returns 3 numbers per example .*choose with target which one"),
    Bad("too high", with_(target=3), r"target 3 does not fit .* shape \(2, 3\)"),
    Bad("too low", with_(target=-4), "target -4 does not fit"),
    Bad("too high in a list", with_(target=[0, 3]), r"target \[0, 3\] does not fit .*there are 3 outputs"),
    Bad("too high in a tensor", with_(target=torch.tensor([0, 3])), "target .*does not fit .*there are 3 outputs"),
    Bad("too low in a list", with_(target=[0, -1]), r"target \[0, -1\] does not fit .*there are 3 outputs"),
    Bad("too high in one tensor", with_(target=torch.tensor(3)), "target .*does not fit"),
    Bad("too high in a tuple", with_(target=(3,)), r"target \(3,\) does not fit"),
    Bad("too high in tuples", with_(target=[(0,), (3,)]), r"target .*does not fit"),
    Bad("too many axes", with_(target=(0, 1)), r"target \(0, 1\) does not fit"),
    Bad("an axis too many in a list", with_(target=[(0, 1), (0, 1)]), "target .*does not fit"),
    Bad("a short list", with_(target=[1]), "target holds 1 entries for 2 examples: give one each"),
    Bad("a long list", with_(target=[0, 1, 2]), "target holds 3 entries for 2 examples"),
    Bad("an empty list", with_(target=[]), "target holds 0 entries for 2 examples"),
    Bad("a long tensor", with_(target=torch.tensor([0, 1, 2])), "target holds 3 entries for 2 examples"),
    Bad("a label", with_(target="positive"), "target 'positive' does not fit"),
    Bad("a fraction", with_(target=1.5), "target 1.5 does not fit"),
    Bad("a fraction in a tensor", with_(target=torch.tensor(1.5)), "target .*does not fit"),
    Bad("labels", with_(target=["a", "b"]), "target .*does not fit"),
    Bad("fractions", with_(target=torch.tensor([0.5, 1.0])), "target .*does not fit"),
    Bad("of one number", output_of(lambda p: p[:, 1], target=0), r"target 0 does not fit .* shape \(2,\)"),
    Bad("too few axes", output_of(lambda p: p.unsqueeze(1), target=0), "returns 3 numbers per example .*target"),
)
def test_targets(bad, path, refused):
    refused(bad.call, bad.message, case(BERT), path, bad.kind)


# The rule and the batches


@bad_calls(
    Bad("unknown rule", with_(method="simpson"), "Unknown integration rule 'simpson'.*riemann_left.*gausslegendre"),
    Bad("no rule", with_(method=None), "Unknown integration rule None"),
    Bad("no steps", with_(n_steps=0), "n_steps of at least 1, got 0"),
    Bad("negative steps", with_(n_steps=-1), "n_steps of at least 1, got -1"),
    Bad("half a step", with_(n_steps=2.5), "n_steps must be a whole number, got 2.5", TypeError),
    Bad("true steps", with_(n_steps=True), "n_steps must be a whole number, got True", TypeError),
    Bad("steps in words", with_(n_steps="20"), "n_steps must be a whole number, got '20'", TypeError),
    *(
        Bad(f"one step of {rule}", with_(n_steps=1, method=rule), f"{rule} needs n_steps of at least 2, got 1")
        for rule in METHODS
        if rule.startswith("riemann")
    ),
    Bad("no rows", with_(internal_batch_size=0), "internal_batch_size must be .* at least 1, got 0"),
    Bad("negative rows", with_(internal_batch_size=-8), "internal_batch_size must be .* at least 1, got -8"),
    Bad("half a row", with_(internal_batch_size=2.5), "internal_batch_size must be a whole number"),
    Bad("rows in words", with_(internal_batch_size="4"), "internal_batch_size must be a whole number"),
)
def test_steps_and_rows(bad, refused):
    refused(bad.call, bad.message, case(BERT), kind=bad.kind)


# Baselines


def fewer_tokens(c: Case, path: str) -> Any:
    """The forward function cuts padding off; of the baseline one token is left."""

    def forward(ids, mask):
        longest = int(mask.sum(1).max())
        return c.forward(ids[:, :longest], mask[:, :longest])

    inputs, one = (c.inputs, torch.ones_like(c.inputs)), torch.zeros_like(c.inputs)
    one[:, 0] = 1
    method = SelfAttentionAttribution(forward, attention_layers(c.model), path=path)
    return method.attribute(inputs, (c.inputs, one), 1)


@both_paths
@bad_calls(
    Bad(
        "another length",
        with_(baselines=torch.zeros(2, 6, dtype=torch.long)),
        r"shape \(2, 6\) does not fit .*\(2, 7\)",
    ),
    Bad(
        "another batch", with_(baselines=torch.zeros(3, 7, dtype=torch.long)), r"shape \(3, 7\) does not fit .*\(2, 7\)"
    ),
    Bad("no axes", with_(baselines=torch.tensor(3)), r"shape \(\) does not fit inputs of shape \(2, 7\)"),
    Bad("too many", with_(baselines=(0, 0)), "Got 2 baselines for 1 inputs"),
    Bad("none", with_(baselines=()), "Got 0 baselines for 1 inputs"),
    Bad("a word", with_(baselines="[PAD]"), "baseline must be a number or a tensor, got str", TypeError),
    Bad("a list", with_(baselines=[0]), "baseline must be a number or a tensor, got list", TypeError),
    Bad("true", with_(baselines=True), "baseline must be a number or a tensor, got bool", TypeError),
    Bad(
        "both kinds", with_(baselines=0, attention_baselines=0.1), "Give baselines .* or attention_baselines, not both"
    ),
    Bad(
        "attention of another length",
        with_(attention_baselines=torch.zeros(2, 4, 7, 6)),
        r"shape \(2, 4, 7, 6\) does not broadcast .*BertSelfAttention, .*\(2, 4, 7, 7\)",
    ),
    Bad("too many axes", with_(attention_baselines=torch.zeros(1, 2, 4, 7, 7)), "does not broadcast"),
    Bad("unknown attention", with_(attention_baselines="mean"), "'mean' is not known: 'uniform', a number or a tensor"),
    Bad("a short list", with_(attention_baselines=[0.1, 0.2]), r"list of 2 for 3 layer\(s\): give one each"),
    Bad("attention of a wrong type", with_(attention_baselines={0: 0.1}), "None, a number, .*, got dict", TypeError),
    Bad("true attention", with_(attention_baselines=True), "None, a number, .*, got bool", TypeError),
    Bad("one wrong in a list", with_(attention_baselines=[0.1, None, "mean"]), "'mean' is not known"),
    Bad("complex attention", with_(attention_baselines=torch.tensor(0.1j)), "must be real numbers", TypeError),
    Bad("inputs at which the model sees fewer tokens", fewer_tokens, r"At the baselines .* \(2, 4, 1, 1\), at .*, 7\)"),
)
def test_baselines(bad, path, refused):
    refused(bad.call, bad.message, case(BERT), path, bad.kind)


def test_a_list_of_attention_baselines_for_a_layer_that_is_not_in_a_list(refused):
    call = lambda c, path: attribute(c, layer=attention_layers(c.model)[0], attention_baselines=[0.1])
    refused(call, r"list of 1 for 1 layer\(s\)", case(BERT))


# Inputs


@bad_calls(
    Bad("a list", with_(inputs=[[5, 6, 7]]), "inputs must be a tensor or a tuple of tensors.*got list", TypeError),
    Bad("text", with_(inputs="A warm film."), "inputs must be .*got str", TypeError),
    Bad("a dictionary", with_(inputs={"input_ids": torch.ones(1, 3)}), "inputs must be .*got dict", TypeError),
    Bad("a list inside", with_(inputs=(torch.ones(1, 3), [1])), "inputs must be .*got Tensor, list", TypeError),
    Bad("nothing", with_(inputs=()), "inputs must be a tensor", TypeError),
    Bad("no batch", with_(inputs=torch.tensor(5)), "inputs must be .* with a batch dimension", TypeError),
    Bad("no examples", with_(inputs=torch.ones(0, 7, dtype=torch.long)), r"at least one; got \[0\]"),
    Bad("sparse", with_(inputs=torch.ones(2, 7).to_sparse()), r"dense tensors, got a sparse one.*to_dense"),
    Bad("different numbers", with_(inputs=(torch.ones(2, 7), torch.ones(3, 7))), r"same number of examples.*\[2, 3\]"),
)
def test_inputs(bad, refused):
    refused(bad.call, bad.message, case(BERT), kind=bad.kind)


@both_paths
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_sequence_that_is_all_padding(name, attention, path, refused):
    c = case(BY_NAME[name], attention=attention, dtype=torch.float32)
    mask = torch.stack([c.mask[0], torch.zeros_like(c.mask[1])])
    outputs = lambda c: lambda ids, mask: c.model(ids, attention_mask=mask).logits.flatten(1)
    refused(forward_of(outputs, mask=mask), "Example 1 of the batch is all padding", c, path)


# Outputs and gradients


def own_gradient(c: Case):
    def forward(ids, mask):
        embedded = c.model.get_input_embeddings()(ids).detach().requires_grad_()
        output = c.model(inputs_embeds=embedded, attention_mask=mask).logits[:, 1]
        return (torch.autograd.grad(output.sum(), embedded, create_graph=True)[0] * embedded).sum((1, 2))

    return forward


def checkpointed(c: Case):
    def forward(ids, mask):
        run = lambda embedded: c.model(inputs_embeds=embedded, attention_mask=mask).logits
        return checkpoint(run, c.model.get_input_embeddings()(ids), use_reentrant=False)

    return forward


@both_paths
@bad_calls(
    Bad("a tuple", output_of(lambda p: (p, p)), "must return a tensor.*got tuple.*Wrap it", TypeError),
    Bad("a list", output_of(lambda p: p.tolist()), "must return a tensor.*got list", TypeError),
    Bad("a dictionary", output_of(lambda p: {"scores": p}), "must return a tensor.*got dict", TypeError),
    Bad("nothing", output_of(lambda p: None), "must return a tensor.*got NoneType", TypeError),
    Bad(
        "a number for the batch", output_of(lambda p: p[:, 1].sum(), target=None), "one output per example: 2 examples"
    ),
    Bad("one row too few", output_of(lambda p: p[1:]), r"one output per example: 2 examples gave the shape \(1, 3\)"),
    Bad("detached", output_of(lambda p: p.detach()), "does not depend on the attention layer.*detach its output"),
    Bad("without gradients", forward_of(lambda c: torch.no_grad()(c.forward)), "does not depend .*torch.no_grad"),
    Bad("a class", output_of(lambda p: p.argmax(-1), target=None), "does not depend .*return a predicted class"),
    Bad("a decision", output_of(lambda p: p[:, 1] > 0.5, target=None), "does not depend .*return a predicted class"),
    Bad("not a number", output_of(lambda p: p / 0 - p / 0), "returned NaN or infinite values"),
    Bad("infinite", output_of(lambda p: p / 0), "returned NaN or infinite values"),
    Bad(
        "infinite for one example",
        forward_of(lambda c: lambda ids, mask: c.forward(ids, mask) / (mask.sum(1, keepdim=True) - 5)),
        "returned NaN or infinite values",
    ),
    Bad("complex", output_of(lambda p: p + 1j), "must return real numbers", TypeError),
    Bad("a gradient", forward_of(own_gradient, target=None), "takes a gradient itself"),
    Bad("checkpoints", forward_of(checkpointed), "runs parts of the model again .*checkpoint", UnsupportedModelError),
    Bad("gradient not a number", output_of(lambda p: p + (0 * p).sqrt()), "gradient on the path is NaN.*try float32"),
)
def test_outputs(bad, path, refused):
    refused(bad.call, bad.message, case(BERT), path, bad.kind)


@both_paths
def test_not_a_number_on_the_path_only(path, refused):
    """The clean output is finite, and what it is with less attention is not."""
    c = case(BERT)
    clean = c.forward(c.inputs, c.mask).detach()[:1]
    near = lambda c: lambda ids, mask: (1e-9 - (c.forward(ids, mask) - clean).abs()).log()
    refused(forward_of(near, inputs=c.inputs[:1], mask=c.mask[:1]), "returned NaN or infinite values", c, path)


@both_paths
@pytest.mark.parametrize(
    "name",
    ["embeddings.LayerNorm.bias", "encoder.layer.1.attention.self.query.bias", "encoder.layer.2.output.dense.bias"],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(name, value, path, refused):
    c = case(BERT)
    torch.nn.init.constant_(c.model.bert.get_parameter(name), value)
    refused(with_(), "NaN or infinite values", c, path)


# Attributions and attention put in


SHAPE = (2, 4, 7, 7)


@both_paths
@bad_calls(
    Bad("attributions of too few layers", delta_of(SHAPE), "attributions of 1 layers for 3 layers"),
    Bad("attributions of another batch", delta_of((1, *SHAPE[1:]), SHAPE, SHAPE), "attributions .*(example|batch)"),
    Bad("attention of too few layers", function_of(2, 7, n_layers=3), "Got 1 tensors for 3 layers"),
    Bad(
        "attention of another length", function_of(2, 6, n_layers=1), r"\(2, 4, 6, 6\) for .*, expected \(2, 4, 7, 7\)"
    ),
    Bad("rows without examples", function_of(4, 7, n_layers=1), "additional_forward_args=function.examples"),
)
def test_what_was_computed_before(bad, path, refused):
    refused(bad.call, bad.message, case(BERT), path, bad.kind)


def test_layers_that_are_run_without_gradients():
    c = case(BERT)

    def forward(ids, mask):
        hidden = c.model.bert.embeddings(ids)
        for layer in c.model.bert.encoder.layer:
            hidden = checkpoint(layer, hidden, use_reentrant=True)
        return c.model.classifier(c.model.bert.pooler(hidden))

    with pytest.raises(ValueError, match="runs some of the given attention layers without gradients"):
        attribute(c, forward, path="joint")


@both_paths
def test_a_model_made_in_inference_mode(path):
    with torch.inference_mode():
        c = case(BERT)
        c = replace(c, inputs=c.inputs.clone())
    with pytest.raises(ValueError, match=r"made under torch.inference_mode.*load it outside"):
        attribute(c, path=path)


@both_paths
def test_a_model_that_gets_its_weights_in_a_first_pass(path):
    c = case(BERT)
    c.model.classifier = nn.LazyLinear(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="A LazyLinear of the model gets its weights in a first pass: run the model"):
        attribute(c, path=path)
    c.forward(c.inputs, c.mask)
    attribute(c, path=path)


def test_a_static_cache():
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SMALL, "vocab_size": 60})).eval()
    ids = torch.arange(5, 12).unsqueeze(0)
    cache = hf.StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    method = SelfAttentionAttribution(
        lambda ids, cache: model(ids, past_key_values=cache).logits[:, -1], attention_layers(model)
    )
    with pytest.raises(ValueError, match=r"StaticCache .* cannot be picked one by one: give a DynamicCache"):
        method.attribute(ids[:, :2], target=1, additional_forward_args=cache)


def test_a_number_of_numpy_is_a_target():
    c = case(BERT)
    for one, other in zip(attribute(c, target=np.int64(1))[0], attribute(c, target=1)[0], strict=True):
        assert torch.equal(one, other)
