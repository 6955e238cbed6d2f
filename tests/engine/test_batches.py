"""Attention whose rows are not the examples': folded, one row at a time, or refused with both sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as hf
from oracles import direct_attribution
from tiny_models import FAMILIES, SMALL, Family, case, make
from tiny_seq2seq import CROSS
from torch import Tensor, nn

from captum_attattr import HeadImportance, SelfAttentionAttribution, UnsupportedModelError, attention_layers
from captum_attattr.engine.quadrature import quadrature
from captum_attattr.heads import AttAttr

BY_NAME = {family.name: family for family in FAMILIES}
both_paths = pytest.mark.parametrize("path", ["layerwise", "joint"])
TEXT = {**SMALL, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 12, "patch_size": 4}  # fmt: skip


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(5, 60, shape, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Given:
    model: nn.Module
    forward: Callable[..., Tensor]
    inputs: Any
    arguments: tuple[Any, ...] = ()

    def attribute(self, layers=None, path="layerwise", **options):
        layers = attention_layers(self.model) if layers is None else layers
        method = SelfAttentionAttribution(self.forward, layers, path=path)
        return method.attribute(self.inputs, additional_forward_args=self.arguments, n_steps=4, **options)

    def run(self) -> Tensor:
        inputs = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        return self.forward(*inputs, *self.arguments)


def assert_oracle(given: Given, path: str, digits: float = 1e-6, layers=None) -> list[Tensor]:
    """The attributions of every layer are those of the direct computation, which knows nothing of examples."""
    layers = attention_layers(given.model) if layers is None else layers
    nodes, weights = quadrature("gausslegendre", 4)
    ours = given.attribute(layers, path)
    groups = [list(range(len(layers)))] if path == "joint" else [[i] for i in range(len(layers))]
    for group in groups:
        forward = lambda: given.run().reshape(-1)
        theirs, _ = direct_attribution(given.model, forward, [layers[i] for i in group], nodes=nodes, weights=weights)
        for i, direct in zip(group, theirs, strict=True):
            direct = direct.unflatten(0, (len(ours[i]), -1)).flatten(1, 2)
            assert direct.abs().max() > 1e-6, "a case in which attention does not matter proves nothing"
            assert (ours[i] - direct).abs().max() < digits * direct.abs().max(), f"layer {i}"
    return ours


def multiple_choice(batch=2) -> Given:
    model = make(Family("bert", lambda: hf.BertForMultipleChoice(hf.BertConfig(**TEXT))))
    mask = torch.ones(batch, 3, 5, dtype=torch.long)
    mask[-1, 1, 3:] = 0
    return Given(model, lambda i, m: model(i, m).logits[:, 1], ids(batch, 3, 5), (mask,))


class Hierarchy(nn.Module):
    """Sentences of a document, each read by one encoder; their [CLS] by another."""

    def __init__(self, words_first: bool = False):
        super().__init__()
        config = {**TEXT, "num_labels": 3, "num_hidden_layers": 1}
        self.config = hf.BertConfig(**config)
        self.sentence, self.document = hf.BertModel(self.config), hf.BertForSequenceClassification(self.config)
        self.sentences_first = words_first

    def set_attn_implementation(self, name):
        for part in (self.sentence, self.document):
            part.set_attn_implementation(name)

    def forward(self, documents: Tensor) -> Tensor:
        order = (lambda x: x.transpose(0, 1)) if self.sentences_first else (lambda x: x)
        flat = order(documents)
        read = self.sentence(flat.flatten(0, 1)).last_hidden_state[:, 0].unflatten(0, flat.shape[:2])
        return self.document(inputs_embeds=order(read)).logits[:, 1]


def hierarchy(batch=2, sentences_first=False) -> Given:
    model = make(Family("hierarchy", lambda: Hierarchy(sentences_first)))
    return Given(model, model, ids(batch, 3, 5))


def clip(images=1, texts=3) -> Given:
    config = hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    model = make(Family("clip", lambda: hf.CLIPModel(config)))
    forward = lambda pixels, i: model(input_ids=i, pixel_values=pixels).logits_per_image[:, 1]
    return Given(model, forward, noise(images, 3, 12, 12), (ids(texts, 5),))


def swin(batch=2) -> Given:
    config = hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=2)
    model = make(Family("swin", lambda: hf.SwinForImageClassification(config)))
    return Given(model, lambda pixels: model(pixels).logits[:, 1], noise(batch, 3, 16, 16))


def patchtst(batch=2) -> Given:
    config = hf.PatchTSTConfig(num_input_channels=3, context_length=12, patch_length=4, patch_stride=4, d_model=16,
                               num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, num_targets=3,
                               norm_type="layernorm")  # fmt: skip
    model = make(Family("patchtst", lambda: hf.PatchTSTForClassification(config)))
    return Given(model, lambda values: model(values).prediction_logits[:, 1], noise(batch, 12, 3))


def llava() -> Given:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT, num_key_value_heads=2),
        image_token_id=3, vision_feature_layer=-1,
    )  # fmt: skip
    model = make(Family("llava", lambda: hf.LlavaForConditionalGeneration(config)))
    text = torch.cat([ids(1, 2), torch.full((1, 18), 3), ids(1, 2)], 1)
    return Given(model, lambda i, pixels: model(i, pixel_values=pixels).logits[:, -1, 7], text, (noise(2, 3, 12, 12),))


def qwen() -> Given:
    """Its images come as one row of patches for all of them, whatever the number of texts."""
    text = {**TEXT, "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                                                  "rope_theta": 1e4}}  # fmt: skip
    image = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4,
             "spatial_merge_size": 2, "temporal_patch_size": 2}  # fmt: skip
    config = hf.Qwen2VLConfig(text_config=text, vision_config=image, image_token_id=3, vision_start_token_id=4)
    model = make(Family("qwen", lambda: hf.Qwen2VLForConditionalGeneration(config)))
    tokens = torch.tensor([[10, 4, 3, 3, 3, 3, 7, 11]])

    def forward(ids, pixels, grid):
        kinds = (ids == 3).int()
        return model(ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds).logits[:, -1, 7]

    return Given(model, forward, tokens, (noise(16, 3 * 2 * 4 * 4), torch.tensor([[1, 4, 4]])))


FOLDED = {
    "multiple choice": (multiple_choice, 3 * 4),
    "one question of it": (lambda: multiple_choice(1), 3 * 4),
    "hierarchy": (hierarchy, 3 * 4),
    "sentences first, of one document": (lambda: hierarchy(1, True), 3 * 4),
    "an image and three texts": (clip, 3 * 4),
    "an image and two texts": (lambda: clip(1, 2), 2 * 4),
    "windows": (swin, 16 * 2),
    "channels": (patchtst, 3 * 2),
    "two images in a text": (llava, 2 * 4),
    "an image as a row of patches": (qwen, 4),
}


@both_paths
@pytest.mark.parametrize("name", FOLDED)
def test_rows_of_an_example_are_further_heads(name, path):
    build, heads = FOLDED[name]
    attributions = assert_oracle(build(), path)
    assert attributions[0].shape[1] == heads


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hierarchy(2, True), "BertSelfAttention is computed for 6 rows .* 2 examples, and for 3 rows on 1"),
        (
            lambda: clip(2, 3),
            "CLIPAttention is computed for 3 rows where .* 2 examples, so it is not known which row belongs to which",
        ),
        (lambda: clip(2, 4), "CLIPAttention is computed for 4 rows where .* 2 examples, and for 4 rows on 1"),
    ],
)
def test_rows_that_belong_to_no_example_are_refused(build, message):
    with pytest.raises(UnsupportedModelError, match=message):
        build().attribute()


@pytest.mark.parametrize(("build", "rows"), [(llava, "4"), (qwen, "32")])
def test_images_of_several_texts_that_do_not_follow_them(build, rows):
    one = build()
    twice = (argument.repeat(2, *[1] * (argument.dim() - 1)) for argument in one.arguments)
    two = Given(one.model, one.forward, one.inputs.repeat(2, 1), tuple(twice))
    with pytest.raises(
        UnsupportedModelError, match=rf"2 examples, and further tensors of {rows} rows.*one example at a time"
    ):
        two.attribute(attention_layers(one.model)[2:])


def test_windows_in_everything_else():
    """Reductions, baselines, tolerance, and a part of the layers, as of the whole."""
    given = swin()
    attributions = given.attribute()
    assert torch.equal(given.attribute(reduce="sum")[1], attributions[1].sum((2, 3)))
    torch.testing.assert_close(given.attribute(attention_layers(given.model)[1:2])[0], attributions[1])
    uniform = given.attribute(attention_baselines="uniform", return_convergence_delta=True)
    assert all(delta.shape == (2,) for delta in uniform[1])
    exact, delta = given.attribute(tolerance=0.01, return_convergence_delta=True)
    assert all((d.abs() < 0.01 * one.flatten(1).norm(dim=1)).all() for one, d in zip(exact, delta))
    function = SelfAttentionAttribution(given.forward, attention_layers(given.model)).attention_function(given.inputs)
    torch.testing.assert_close(function(*function.attention), given.run(), rtol=1e-5, atol=1e-6)


def test_importance_of_heads_over_choices():
    """A head is one head, whatever the number of choices; measures that cannot tell them apart are refused."""
    given = multiple_choice()
    batch, labels = {"input_ids": given.inputs, "attention_mask": given.arguments[0]}, [1, 0]
    probabilities = lambda i, m: given.model(i, m).logits.softmax(-1)
    attributions = Given(given.model, probabilities, given.inputs, given.arguments).attribute(target=labels)
    for measure, expected in (
        (AttAttr("max", 4, tolerance=None), [one.unflatten(1, (3, 4)).amax((1, 3, 4)) for one in attributions]),
        (AttAttr("sum", 4, tolerance=None), [one.unflatten(1, (3, 4)).sum((1, 3, 4)).abs() for one in attributions]),
    ):
        found = HeadImportance(given.model, measure=measure)
        found.update(batch, labels)
        torch.testing.assert_close(found.compute().scores, torch.stack(expected, 1).mean(0), rtol=1e-6, atol=1e-9)
    for name in ("taylor", "attention", "ablation"):
        found = HeadImportance(given.model, measure=name)
        with pytest.raises(UnsupportedModelError, match=r"choices, windows, images.*measure='attattr'"):
            found.update(batch, labels)


# A first dimension of the size of the batch that is something else


@both_paths
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 3), (2, 1)])
def test_t5_whose_bias_is_no_batch(batch, tokens, path, recwarn):
    """T5 looks its bias up as (query, key, head): with as many queries as examples that looks like a batch."""
    model = make(Family("t5", CROSS["t5"]))
    forward = lambda i, d: model(input_ids=i, decoder_input_ids=d).logits[:, -1, 7]
    assert_oracle(Given(model, forward, ids(batch, 4), (ids(batch, tokens),)), path)
    assert not [w for w in recwarn if "whole passes" in str(w.message)]


# One row at a time


@both_paths
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_single_number_for_one_example(name, path):
    c = case(BY_NAME[name], batch=1)
    attributions = assert_oracle(Given(c.model, lambda i, m: c.forward(i, m)[0, 1], c.inputs, (c.mask,)), path, 1e-9)
    expected = Given(c.model, lambda i, m: c.forward(i, m)[:, 1], c.inputs, (c.mask,)).attribute(path=path)
    for one, other in zip(attributions, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_one_row_of_keys_that_serves_all_queries(path):
    """Encoder outputs that the function holds: one row of keys and values, and a row of queries for each step."""
    model = make(Family("bart", CROSS["bart"]))
    source, target = torch.randint(5, 60, (1, 6)), torch.randint(5, 60, (1, 4))
    states = model.get_encoder()(source).last_hidden_state.detach()

    def attributed(repeat):
        def forward(ids):
            encoded = (states.expand(len(ids), -1, -1) if repeat else states,)
            return model(decoder_input_ids=ids, encoder_outputs=encoded).logits[:, -1]

        layers = attention_layers(model.get_decoder())
        return SelfAttentionAttribution(forward, layers, path=path).attribute(target, target=7)

    for one, other in zip(attributed(False), attributed(True), strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * float(other.abs().max()))


def test_a_function_of_one_row_is_not_given_several():
    c = case(BY_NAME["bert"], batch=1)
    method = SelfAttentionAttribution(lambda i: c.forward(i)[0, 1], attention_layers(c.model)[0])
    function = method.attention_function(c.inputs)
    assert function(*function.attention).dim() == 0
    with pytest.raises(ValueError, match="runs on one row at a time only, and got 2"):
        function(function.attention[0].repeat(2, 1, 1, 1), torch.tensor([0, 0]))


# Attention functions whose context is used as it lies in memory


def jetmoe():
    return hf.JetMoeForCausalLM(hf.JetMoeConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8, intermediate_size=48,
        num_local_experts=4, num_experts_per_tok=2,
    ))  # fmt: skip


def afmoe():
    return hf.AfmoeForCausalLM(hf.AfmoeConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,
        num_dense_layers=1, num_shared_experts=1, pad_token_id=0,
    ))  # fmt: skip


@pytest.mark.filterwarnings("ignore:Replaying from JetMoe")  # it sorts tokens of all examples by their experts
@both_paths
@pytest.mark.parametrize("build", [jetmoe, afmoe])
def test_contexts_are_handed_over_as_attention_functions_give_them(build, path):
    """Both families use ``view`` on them."""
    model = make(Family("moe", build))
    model.set_experts_implementation("eager")  # the others have no double precision
    forward = lambda i: model(i, use_cache=False).logits[:, -1, 7]
    assert_oracle(Given(model, forward, ids(2, 5)), path)


def test_what_was_found_for_one_length_holds_for_another():
    """AFMoE's experts take the tokens of all examples in a row: how many are an example's depends on the length."""
    model = make(Family("moe", afmoe))
    model.set_experts_implementation("eager")
    forward = lambda i: model(i, use_cache=False).logits[:, -1, 7]
    layers = attention_layers(model)
    method = SelfAttentionAttribution(forward, layers)
    for length in (5, 8, 3):
        again, fresh = method.attribute(ids(2, length), n_steps=3), SelfAttentionAttribution(forward, layers)
        for one, other in zip(again, fresh.attribute(ids(2, length), n_steps=3), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# Nothing, and what was read before


@pytest.mark.parametrize("shape", [(1, 0), (2, 0), (0, 4)])
def test_nothing_to_explain(shape):
    c = case(BY_NAME["bert"])
    with pytest.raises(ValueError, match=r"inputs (are empty, of shape|need the same number of examples)"):
        Given(c.model, lambda i: c.forward(i)[:, 1], torch.zeros(shape, dtype=torch.long)).attribute()


@both_paths
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cache_is_copied_for_every_pass(name, batch, path):
    c = case(BY_NAME[name], batch=batch, padded=False)
    model = c.model
    with torch.no_grad():
        read = (model.model if name == "llama" else model.transformer)(c.inputs[:, :4], use_cache=True).past_key_values
    before = [layer.keys.clone() for layer in read.layers]

    def forward(i, cache):
        return model(i, past_key_values=cache, use_cache=True).logits.flatten(1)[:, -2]

    given = Given(model, forward, c.inputs[:, 4:], (read,))
    nodes, weights = quadrature("gausslegendre", 4)
    layers = attention_layers(model)
    attributions = given.attribute(path=path)
    assert [one.shape for one in attributions] == [(batch, 4, 3, 7)] * 3
    for keys, layer in zip(before, read.layers, strict=True):
        assert torch.equal(keys, layer.keys)
    run = lambda: forward(c.inputs[:, 4:], copy.deepcopy(read))
    for group in [layers] if path == "joint" else [[layer] for layer in layers]:
        theirs, _ = direct_attribution(model, run, group, nodes=nodes, weights=weights)
        for layer, direct in zip(group, theirs, strict=True):
            ours = attributions[layers.index(layer)]
            assert (ours - direct).abs().max() < 1e-6 * direct.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_cache_that_the_function_holds(batch):
    c = case(BY_NAME["gpt2"], batch=batch)
    with torch.no_grad():
        read = c.model.transformer(c.inputs[:, :4], use_cache=True).past_key_values
    forward = lambda i: c.model(i, past_key_values=read).logits[:, -1, 7]
    with pytest.raises(ValueError, match=r"had 7 keys in one pass and \d+ in the next.*additional_forward_args"):
        Given(c.model, forward, c.inputs[:, 4:]).attribute()


def test_a_cache_with_a_gradient():
    c = case(BY_NAME["gpt2"], batch=1)
    read = c.model.transformer(c.inputs[:, :4], use_cache=True).past_key_values
    given = Given(
        c.model, lambda i, cache: c.model(i, past_key_values=cache).logits[:, -1, 7], c.inputs[:, 4:], (read,)
    )
    with pytest.raises(ValueError, match=r"cannot be copied for each pass.*torch.no_grad"):
        given.attribute()


def test_indices_for_the_whole_batch_on_a_gpu():
    """There an index out of range is no IndexError: the GPU stops, and says so late."""
    c = case(FAMILIES[0], batch=3)

    def forward(ids, mask):
        if len(ids) != 3:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return c.forward(ids, mask)

    method = SelfAttentionAttribution(forward, attention_layers(c.model))
    with pytest.raises(ValueError, match=r"indices that are made for this batch.*start Python again"):
        method.attribute(c.inputs, target=1, additional_forward_args=c.mask)
