"""The methods that are compared: tokens and token pairs scored for one sentence.

All of them see the same model, the same sentence, the same target and the same F: the probability, in float64, of the
class that the model predicts. Rows of attention are read at the first token ([CLS] in BERT), from which the model
classifies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.attr import (
    IntegratedGradients,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Saliency,
)
from torch import Tensor

from benchmarks.setup.sentences import Sentence
from captum_attattr import head_scores, token_scores
from captum_attattr.aggregation import TokenReduction
from captum_attattr.attribution.self_attention import PathName
from captum_attattr.faithfulness import TokenRemoval, leave_one_out
from captum_attattr.faithfulness.token_removal import How

TokenMethod = Callable[[Sentence], Tensor]
PairMethod = Callable[[Sentence], list[Tensor]]


def token_removal(s: Sentence, how: How, copies: int = 1) -> TokenRemoval:
    """Of this sentence, ``copies`` times: one for each method."""
    tokenizer = s.subject.tokenizer
    token = {"mask": None, "delete": tokenizer.pad_token_id, "replace": tokenizer.mask_token_id}[how]
    ids, mask, *others = (t.repeat(copies, 1) for t in (s.ids, s.mask, *s.others.values()))
    return TokenRemoval(
        s.forward, ids, mask, tuple(others),
        target=s.target, special_tokens_mask=s.special.repeat(copies, 1), how=how, token_id=token,
    )  # fmt: skip


def attention_and_gradient(s: Sentence) -> tuple[list[Tensor], list[Tensor]]:
    """The attention of each layer and dF/dA, everything above it following: (head, query, key) each."""

    def compute() -> tuple[list[Tensor], list[Tensor]]:
        embedded = s.subject.embeddings(s.ids).requires_grad_()
        output = s.subject.eager(inputs_embeds=embedded, attention_mask=s.mask, **s.others, output_attentions=True)
        probability = output.logits.double().softmax(-1)[0, s.target]
        gradients = torch.autograd.grad(probability, output.attentions)
        return [a[0].detach() for a in output.attentions], [g[0] for g in gradients]

    return s.once("attention", compute)


def attention_of(s: Sentence) -> list[Tensor]:
    return attention_and_gradient(s)[0]


def integrated_gradients(s: Sentence) -> Tensor:
    """Captum's LayerIntegratedGradients at its default of 50 steps, from [PAD] in place of each word."""

    def compute() -> Tensor:
        baseline = torch.where(s.special.bool(), s.ids, s.subject.tokenizer.pad_token_id)
        method = LayerIntegratedGradients(s.forward, s.subject.embeddings)
        return summed(method.attribute(s.ids, baselines=baseline, target=s.target))

    return s.once("integrated gradients", compute)


def summed(attributions: Tensor) -> Tensor:
    """Of one sentence, over the entries of a token's embedding."""
    return attributions.sum(-1)[0]


def forward_embedded(s: Sentence) -> Callable[[Tensor], Tensor]:
    return lambda embedded: s.forward(None, inputs_embeds=embedded)


def zero_integrated_gradients(s: Sentence) -> Tensor:
    embedded = s.subject.embeddings(s.ids).detach()
    return summed(IntegratedGradients(forward_embedded(s)).attribute(embedded, target=s.target))


def input_x_gradient(s: Sentence) -> Tensor:
    """InputXGradient's layer variant."""
    method = LayerGradientXActivation(s.forward, s.subject.embeddings)
    return summed(method.attribute(s.ids, target=s.target))


def saliency(s: Sentence) -> Tensor:
    """The norm of the gradient at each token's embedding."""
    embedded = s.subject.embeddings(s.ids).detach().requires_grad_()
    gradient: Tensor = Saliency(forward_embedded(s)).attribute(embedded, target=s.target, abs=False)
    norms: Tensor = gradient.norm(dim=-1)
    return norms[0]


def rollout(s: Sentence) -> Tensor:
    """Abnar and Zuidema (ACL 2020): layers' mean attention and half of each token itself, multiplied up."""
    total = torch.eye(s.ids.shape[1])
    for attention in attention_of(s):
        total = (0.5 * attention.mean(0) + 0.5 * torch.eye(len(total))) @ total
    return total[0]


def gradient_x_attention(s: Sentence) -> Tensor:
    """Chefer, Gur and Wolf (ICCV 2021), the rule for self-attention: R <- R + mean_h (A dF/dA)^+ R."""
    relevance = torch.eye(s.ids.shape[1])
    for attention, gradient in zip(*attention_and_gradient(s), strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(0) @ relevance
    return relevance[0] - torch.eye(len(relevance))[0]


def ours(reduction: TokenReduction, path: PathName = "layerwise") -> TokenMethod:
    return lambda s: token_scores(s.attributions(path), reduction)[0]


def random(seed: int, shape: Callable[[Sentence], tuple[int, ...]]) -> TokenMethod:
    def scores(s: Sentence) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + int(s.ids.sum()))
        return torch.rand(shape(s), generator=generator)

    return scores


TOKEN_METHODS: dict[str, TokenMethod] = {
    "integrated gradients, [PAD]": integrated_gradients,
    "integrated gradients, zero": zero_integrated_gradients,
    "input x gradient": input_x_gradient,
    "saliency": saliency,
    "attention rollout": rollout,
    "attention, last layer": lambda s: attention_of(s)[-1].mean(0)[0],
    "attention, all layers": lambda s: torch.stack(attention_of(s)).mean((0, 1))[0],
    "gradient x attention (Chefer)": gradient_x_attention,
    "ours, received": ours("received"),
    "ours, sent": ours("sent"),
    "ours, first": ours("first"),
    "ours joint, received": ours("received", "joint"),
    "ours joint, first": ours("first", "joint"),
    "leave-one-out": lambda s: leave_one_out(token_removal(s, "mask"))[0].nan_to_num(),
}


def _in_every_head(scores: TokenMethod) -> PairMethod:
    return lambda s: [scores(s).expand(attention.shape) for attention in attention_of(s)]


def _random_pairs(seed: int) -> PairMethod:
    def shape(s: Sentence) -> tuple[int, ...]:
        tokens = s.ids.shape[1]
        return len(s.subject.layers), s.subject.model.config.num_attention_heads, tokens, tokens

    scores = random(seed, shape)
    return lambda s: list(scores(s))


PAIR_METHODS: dict[str, PairMethod] = {
    "raw attention": attention_of,
    "attention x gradient": lambda s: [a * g for a, g in zip(*attention_and_gradient(s), strict=True)],
    "integrated gradients, outer product": _in_every_head(
        lambda s: integrated_gradients(s)[:, None] * integrated_gradients(s)[None, :]
    ),
    "integrated gradients of the key": _in_every_head(lambda s: integrated_gradients(s)[None, :].float()),
    "ours layerwise": lambda s: [attribution[0] for attribution in s.attributions()],
    "ours joint": lambda s: [attribution[0] for attribution in s.attributions("joint")],
    "ours layerwise, uniform baseline": lambda s: [
        attribution[0] for attribution in s.attributions("layerwise", "uniform")
    ],
}


def token_methods(seeds: int) -> dict[str, TokenMethod]:
    """All of them, and random scores by ``seeds`` seeds."""
    by_seed = {f"random {seed}": random(seed, lambda s: (s.ids.shape[1],)) for seed in range(seeds)}
    return TOKEN_METHODS | by_seed


def pair_methods(seeds: int) -> dict[str, PairMethod]:
    """All of them, and random scores by ``seeds`` seeds."""
    return PAIR_METHODS | {f"random {seed}": _random_pairs(seed) for seed in range(seeds)}


def heads_of(name: str, scores: list[Tensor]) -> Tensor:
    """(layer, 1, head): the sum of a head's scores; of raw attention, whose sums are all alike, its largest weight."""
    stacked = torch.stack(scores)[:, None].double()
    return head_scores(stacked, "max" if name == "raw attention" else "sum")
