"""Attention of any code: whatever is built on the method works on it, and trained weights give what BERT's give."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_agree
from leaf_oracle import by_leaves, clean_softmaxes
from plain_models import HEADS, PLAIN, WIDTH, Blocks, Fused, Projections, plain_inputs, plain_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from captum_attattr import (
    HeadImportance,
    SelfAttentionAttribution,
    attention_layers,
    mask_heads,
)
from captum_attattr.attribution import AttentionFunction
from captum_attattr.demo import load_demo
from captum_attattr.faithfulness import EdgeRemoval, HeadRemoval, leave_one_out

NAMES = [name for name in PLAIN if name not in ("torch.nn.Transformer", "own: a vision transformer as timm's")]
names = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.filterwarnings("ignore:Replaying from", "ignore:.*did not suffice", "ignore:.*not enough for")


class Setting:
    """A model in float64 with its layers, inputs and F: three numbers of its first token."""

    def __init__(self, name):
        self.model = plain_model(name).double()
        self.ids = plain_inputs(name)["input_ids"]
        self.layers = attention_layers(self.model, self.ids)

    def forward(self, ids):
        return self.model(ids)[:, 0, :3]

    def attribute(self, path="layerwise", **options):
        return SelfAttentionAttribution(self.forward, self.layers, path=path).attribute(self.ids, target=1, **options)


@names
@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_completeness_and_padding_of_a_batch(name, path):
    s = Setting(name)
    together, delta = s.attribute(path, tolerance=1e-6, return_convergence_delta=True)
    assert max(float(one.abs().max()) for one in ([delta] if isinstance(delta, torch.Tensor) else delta)) < 1e-5
    for row in (0, 1):
        alone = SelfAttentionAttribution(s.forward, s.layers, path=path)
        for one, other in zip(alone.attribute(s.ids[row : row + 1], target=1, tolerance=1e-6), together, strict=True):
            assert_agree(one, other[row : row + 1], digits=1e-5)


@names
def test_the_output_as_a_function_of_attention(name):
    s = Setting(name)
    function = AttentionFunction(s.forward, s.layers, s.ids)
    assert_agree(function(*function.attention), s.forward(s.ids))
    for one in function.attention:
        assert_agree(one.sum(-1), torch.ones_like(one[..., 0]))
    without = function(*(torch.zeros_like(one) for one in function.attention))
    with mask_heads(s.model, {place: range(HEADS) for place in range(len(attention_layers(s.model)))}):
        assert_agree(without, s.forward(s.ids))


@names
def test_edges_and_heads_are_removed(name):
    s = Setting(name)
    edges = EdgeRemoval(s.forward, s.layers, s.ids, target=1)
    effects = leave_one_out(edges, sample=8)
    assert [one.shape for one in effects] == [(2, HEADS, 7, 7)] * 2
    heads = leave_one_out(HeadRemoval(s.forward, s.layers, s.ids, target=1))
    if len(attention_layers(s.model)) == 2:
        clean = s.forward(s.ids)[:, 1]
        with mask_heads(s.model, {1: [2]}):
            assert_agree(heads[1, :, 2], clean - s.forward(s.ids)[:, 1])


@names
def test_head_importance(name):
    s = Setting(name)
    importance = HeadImportance(s.forward, s.layers, output="logit", target="predicted")
    importance.update(s.ids)
    target = s.forward(s.ids).argmax(1)
    attributions = SelfAttentionAttribution(s.forward, s.layers).attribute(s.ids, target=target, tolerance=1e-6)
    expected = torch.stack([one.amax((2, 3)).mean(0) for one in attributions])
    assert_agree(importance.compute().scores, expected, digits=2e-2)


def torch_encoder_of(bert):
    """The same function as BERT's layers, by torch's own modules with the same weights."""
    config = bert.config
    layer = nn.TransformerEncoderLayer(
        config.hidden_size, config.num_attention_heads, config.intermediate_size, config.hidden_dropout_prob,
        activation="gelu", layer_norm_eps=config.layer_norm_eps, batch_first=True,
    )  # fmt: skip
    encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)
    for ours, theirs in zip(encoder.layers, bert.encoder.layer, strict=True):
        own, out = theirs.attention.self, theirs.attention.output
        projections = (own.query, own.key, own.value)
        ours.self_attn.in_proj_weight.data = torch.cat([one.weight for one in projections])
        ours.self_attn.in_proj_bias.data = torch.cat([one.bias for one in projections])
        pairs = [(ours.self_attn.out_proj, out.dense), (ours.norm1, out.LayerNorm),
                 (ours.linear1, theirs.intermediate.dense),
                 (ours.norm2, theirs.output.LayerNorm), (ours.linear2, theirs.output.dense)]  # fmt: skip
        for one, other in pairs:
            one.load_state_dict(other.state_dict())
    return encoder.to(bert.dtype).eval()


@pytest.mark.parametrize("path", ["layerwise", "joint"])
def test_trained_weights_in_torchs_own_modules(path):
    """The bundled model and its twin of torch.nn.TransformerEncoder are one function, and are explained alike."""
    model, tokenizer = load_demo()
    model = copy.deepcopy(model).double()
    texts = ["An hour of this would have been plenty.", "A warm, funny, unpretentious film about growing old."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    encoder, bert = torch_encoder_of(model.bert), model.bert

    def by_torch(ids, mask):
        states = encoder(bert.embeddings(ids), src_key_padding_mask=mask == 0)
        return model.classifier(bert.pooler(states)).softmax(-1)

    def by_bert(ids, mask):
        return model(ids, attention_mask=mask).logits.softmax(-1)

    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert_agree(by_torch(ids, mask), by_bert(ids, mask))
    results = [
        SelfAttentionAttribution(forward, attention_layers(part), path=path).attribute(
            ids, target=1, additional_forward_args=mask, n_steps=8
        )
        for forward, part in ((by_torch, encoder), (by_bert, model))
    ]
    for one, other in zip(*results, strict=True):
        assert_agree(one, other, digits=1e-7)


@pytest.mark.parametrize("name", ["torch.nn.TransformerEncoder, batch first", "own: einsum"])
def test_other_threads_run_the_model_as_it_is(name):
    s = Setting(name)
    clean, expected, wrong, done = s.forward(s.ids), s.attribute(n_steps=2), [], threading.Event()

    def run():
        while not done.is_set():
            with torch.no_grad():
                wrong.append(float((s.forward(s.ids) - clean).abs().max()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        for one, other in zip(s.attribute(n_steps=2), expected, strict=True):
            assert_agree(one, other)
    done.set()
    for thread in threads:
        thread.join()
    assert len(wrong) > 2
    assert max(wrong) < 1e-12


@names
def test_masks_are_nested_and_leave_nothing(name):
    s = Setting(name)
    clean, attributes = s.forward(s.ids), [set(vars(module)) for module in s.model.modules()]
    with mask_heads(s.model, {0: [1]}):
        one = s.forward(s.ids)
        with mask_heads(s.model, {0: [2]}):
            both = s.forward(s.ids)
            (first, *_) = s.attribute(n_steps=2)
        assert_agree(s.forward(s.ids), one)
    assert not torch.allclose(one, both)
    assert float(first[:, 1:3].abs().max()) == 0
    assert float(first[:, [0, 3]].abs().max()) > 0
    assert torch.equal(s.forward(s.ids), clean)
    assert [set(vars(module)) for module in s.model.modules()] == attributes
    mask = mask_heads(s.model, {0: [1]})
    with torch.inference_mode():  # where torch's encoder would take its fast path
        assert_agree(s.forward(s.ids), one)
    mask.remove()


def test_a_model_goes_with_its_last_user():
    s = Setting("torch.nn.MultiheadAttention, batch first")
    s.attribute(n_steps=1)
    gone = weakref.ref(s.model)
    del s
    gc.collect()
    assert gone() is None


class Largest(TorchDispatchMode):
    """The largest tensor that anything makes."""

    size = 0

    def __torch_dispatch__(self, func, _, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.size = max([self.size, *sizes])
        return result


def test_sdpa_keeps_no_matrix():
    """A matrix of all heads would have 36 million entries; what is made is a block of queries at a time."""
    model, tokens = Blocks(Fused()).eval(), 3000
    ids = torch.randint(0, 99, (1, tokens), generator=torch.Generator().manual_seed(0))
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], model.attention[0])
    with Largest() as largest:
        scores = method.attribute(ids, target=0, n_steps=2, reduce="sum")
    assert scores.shape == (1, HEADS)
    assert 500 * tokens < largest.size < HEADS * tokens * tokens / 2


def test_a_mask_that_forbids_is_no_small_probability():
    """Pairs that a mask forbids are zero by the mask, not by their probability; others may be tiny."""

    class Far(Fused):
        def forward(self, x):
            query, key, value = (one.transpose(1, 2) for one in self.heads(x))
            scores = (query @ key.transpose(2, 3)) * 200
            scores = scores.masked_fill(torch.arange(x.shape[1]) == 2, -1e4)
            return self.out((F.softmax(scores, -1) @ value).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model = Blocks(Far()).double().eval()
    ids = plain_inputs("own: SDPA")["input_ids"]
    method = SelfAttentionAttribution(lambda ids: model(ids).sum(1), model.attention[0])
    (uniform,) = [method.attribute(ids, target=0, n_steps=4, attention_baselines="uniform")]
    assert float(uniform[..., 2].abs().max()) == 0
    assert bool((uniform[..., [0, 1, 3, 4, 5, 6]] != 0).all())


class Both(nn.Module):
    """Two attentions in one forward, with projections between them, and a gate that is zero at first."""

    def __init__(self):
        super().__init__()
        self.embeddings, self.num_heads = nn.Embedding(99, WIDTH), HEADS
        self.qkv, self.out = (nn.ModuleList(nn.Linear(WIDTH, n * WIDTH) for _ in range(2)) for n in (3, 1))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        x = self.embeddings(input_ids)
        for qkv, out in zip(self.qkv, self.out):
            query, key, value = qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            context = ((query @ key.mT).softmax(-1) @ value).transpose(1, 2).flatten(2)
            x = x + out(context) + self.gate * context
        return x


def test_a_replay_of_the_second_attention_of_a_forward_leaves_the_first():
    torch.manual_seed(0)
    model, ids = Both().double().eval(), plain_inputs("own: SDPA")["input_ids"]
    forward = lambda: model(ids)[:, 0, 1]
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], attention_layers(model, ids))
    clean = clean_softmaxes(forward)
    for number, ours in enumerate(method.attribute(ids, target=1, n_steps=4)):
        (direct,) = by_leaves(forward, clean, [number], 4)
        assert_agree(ours, direct, digits=1e-9)


def test_what_stands_beside_attention_does_not_disturb_it():
    """A scripted module, an output of probabilities, a learned query, a view of the context."""

    class Viewed(Projections):
        def forward(self, x):
            query, key, value = (one.transpose(1, 2).flatten(0, 1) for one in self.heads(x))
            context = torch.softmax(input=query @ key.mT, dim=-1) @ value
            context = context.view(len(x) * HEADS, x.shape[1], -1).view(len(x), HEADS, x.shape[1], -1)
            return F.softmax(self.out(context.transpose(1, 2).flatten(2)).mean(1), -1)[:, None].expand_as(x)

    class Latent(Projections):
        def __init__(self):
            super().__init__()
            self.latent = nn.Parameter(torch.randn(1, HEADS, 7, WIDTH // HEADS))

        def forward(self, x):
            _, key, value = (one.transpose(1, 2) for one in self.heads(x))
            return self.out(F.scaled_dot_product_attention(self.latent, key, value).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    scripted = torch.jit.script(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()))
    model, ids = Blocks(Viewed(), Latent()).double().eval(), plain_inputs("own: SDPA")["input_ids"]
    model.output = scripted.double()
    forward = lambda: model(ids)[:, 0, 1]
    clean = clean_softmaxes(forward)
    assert attention_layers(model) == attention_layers(model, ids) == list(model.attention)
    method = SelfAttentionAttribution(lambda ids: model(ids)[:, 0], list(model.attention))
    for number, ours in enumerate(method.attribute(ids, target=1, n_steps=4)):
        (direct,) = by_leaves(forward, clean, [number], 4)
        assert_agree(ours, direct.reshape(ours.shape), digits=1e-9)
