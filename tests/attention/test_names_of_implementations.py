"""Models whose code looks at the name of the attention implementation: they see it as it is while they are watched."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import oracles
import pytest
import torch
import transformers as hf
from snapshot import untouched
from tiny_models import FAMILIES, SMALL, case
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers
from captum_attattr.attention import mask_heads

__all__ = ["untouched"]

SPARSE = {
    **SMALL, "num_hidden_layers": 2, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_topk": 6, "index_n_heads": 2,
    "index_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.randint(3, 60, (64, 9), generator=torch.Generator().manual_seed(0))
MODELS = [("DeepseekV32", "eager"), ("DeepseekV32", "sdpa"), ("GlmMoeDsa", "sdpa"), ("AXK2", "sdpa"), ("HYV4", "eager")]
sparse_models = pytest.mark.parametrize(("name", "attention"), MODELS)


def sparse(name, attention):
    """A model with an index of its own, which for "eager" and "sdpa" alone makes its attention sparse."""
    torch.manual_seed(0)
    model = getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**SPARSE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 1))
    model.set_attn_implementation(attention)
    model.set_experts_implementation("eager")
    return model.double().eval()


@contextmanager
def injected_into_the_file(model, replace):
    """As :func:`oracles.injected`, in place of the eager attention of the model's file, under its own name."""
    file = sys.modules[type(model).__module__]
    own = file.eager_attention_forward

    def attention(module, query, key, value, *args, **kwargs):
        matrix = replace(module, own(module, query, key, value, *args, **kwargs)[1])
        return (matrix @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)).transpose(1, 2), matrix

    file.eager_attention_forward = attention
    try:
        yield
    finally:
        file.eager_attention_forward = own


@sparse_models
def test_a_mask_of_no_heads_changes_nothing(name, attention, untouched):
    model = sparse(name, attention)
    run = lambda: model(IDS[:2]).logits.detach()
    clean = run()
    with untouched(model, run):
        with mask_heads(model, {}):
            assert torch.equal(run(), clean)
        with mask_heads(model, {0: [1]}):
            assert not torch.allclose(run(), clean)
    with oracles.injected(model, lambda module, matrix: matrix):  # under a name that the file does not know
        assert not torch.allclose(run(), clean, rtol=1e-3), "a model that does not look at the name proves nothing"


@sparse_models
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_attribution_is_that_of_the_untouched_model(name, attention, path, monkeypatch):
    monkeypatch.setattr(oracles, "injected", injected_into_the_file)
    model = sparse(name, "eager")
    ids, layers = IDS[:4], attention_layers(model)
    model.set_attn_implementation(attention)
    forward = lambda ids: model(ids).logits[:, -1].softmax(-1)
    method = SelfAttentionAttribution(forward, layers, path=path)
    ours, delta = method.attribute(ids, target=7, n_steps=8, return_convergence_delta=True)
    model.set_attn_implementation("eager")
    groups = [layers] if path == "joint" else [[layer] for layer in layers]
    found = [oracles.direct_attribution(model, lambda: forward(ids)[:, 7], group, n_steps=8) for group in groups]
    theirs = [layer for attributions, _ in found for layer in attributions]
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, atol=1e-6 * float(other.abs().max()), rtol=0)
    for gap, (attributions, difference) in zip(delta if path == "layerwise" else [delta], found, strict=True):
        torch.testing.assert_close(gap, sum(s.sum((1, 2, 3)) for s in attributions) - difference, atol=1e-6, rtol=0)


def test_the_name_is_the_models_own_all_the_time():
    """Whoever asks, and whenever: in any forward, in any thread."""
    c = case(FAMILIES[0], attention="eager")
    names = set()
    c.model.bert.encoder.layer[1].register_forward_pre_hook(lambda *_: names.add(c.model.config._attn_implementation))
    with mask_heads(c.model, {0: [1]}):
        SelfAttentionAttribution(c.forward, attention_layers(c.model)).attribute(c.inputs, target=1, n_steps=2)
    assert names == {"eager"}


class Older(torch.nn.Module):
    """Looks its function up as files of models did before transformers 5.1, and as models with code of their own do."""

    def __init__(self, attention):
        super().__init__()
        self.config = hf.PreTrainedConfig(num_attention_heads=2, attn_implementation=attention)
        self.scaling, self.is_causal = 1.0, False

    def forward(self, states):
        interface = eager_attention_forward
        if self.config._attn_implementation != "eager":
            interface = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return interface(self, states, states, states, None, dropout=0.0, scaling=1.0)[0]


def test_layers_that_look_their_function_up_in_the_older_way():
    states = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    layer = Older("sdpa")
    expected = layer(states)
    with mask_heads(layer, {0: [1]}):
        masked = layer(states)
    assert (masked[:, :, 1] == 0).all()
    torch.testing.assert_close(masked[:, :, 0], expected[:, :, 0])
    method = SelfAttentionAttribution(lambda states: layer(states).sum((1, 2, 3)), layer)
    assert method.attribute(states).sum() == pytest.approx(float(expected.sum()), rel=1e-5)
    eager = Older("eager")
    for door in (lambda: mask_heads(eager, {0: [1]}), lambda: SelfAttentionAttribution(eager, eager).attribute(states)):
        with pytest.raises(
            UnsupportedModelError, match=r"gets its eager attention without transformers' interface.*'sdpa'"
        ):
            door()
