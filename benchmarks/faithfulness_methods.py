"""The methods that benchmarks/faithfulness.py compares: tokens and token pairs scored for one sentence.

All of them see the same model, the same sentence, the same target and the same F: the probability, in float64, of the
class that the model predicts. Rows of attention are read at the first token ([CLS] in BERT), from which the model
classifies.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from captum.attr import (
    IntegratedGradients,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Saliency,
)
from torch import Tensor

from captum_attattr import SelfAttentionAttribution, attention_layers, head_scores, token_scores
from captum_attattr.faithfulness import TokenRemoval, leave_one_out
from captum_attattr.text.classifier import Classifier


def attributions_of(
    forward: Callable[..., Tensor], layers: list[Any], inputs: tuple[Tensor, ...], **options: Any
) -> Any:
    """Our method, for the first input, with the others as further arguments: the one place where it is called."""
    ids, *rest = inputs
    path = options.pop("path", "layerwise")
    method = SelfAttentionAttribution(forward, layers, path=path)
    return method.attribute(ids, additional_forward_args=tuple(rest), **options)


class Subject:
    """The model under examination, once as it is and once with attention that gives its probabilities away.

    Args:
        name: A folder or a name on the Hugging Face Hub; None for the bundled model.
        n_steps: Evaluations on the path of our method, for each layer.
    """

    def __init__(self, name: str | None, n_steps: int) -> None:
        self.n_steps = n_steps
        self.classifier = Classifier(name, None, "logit")
        self.model = self.classifier.model
        self.tokenizer = self.classifier.tokenizer
        self.eager = copy.deepcopy(self.model)
        self.eager.set_attn_implementation("eager")
        for model in (self.model, self.eager):
            model.requires_grad_(False)
        self.layers = attention_layers(self.model)
        self.embeddings = self.model.get_input_embeddings()

    def sentence(self, text: str) -> Sentence:
        (batch,) = self.classifier.batches([text], None, 1)
        given = dict(zip(self.classifier.input_names, batch.inputs, strict=True))
        ids, mask = given.pop("input_ids"), given.pop("attention_mask", batch.real.long())
        sentence = Sentence(self, ids, mask, given, torch.tensor(batch.special))
        with torch.no_grad():
            outputs = sentence.forward(ids)
        sentence.target, sentence.output = int(outputs.argmax()), float(outputs.max())
        return sentence


@dataclass
class Sentence:
    """One sentence as the model takes it, its predicted class, and what several methods need of it."""

    subject: Subject
    ids: Tensor
    mask: Tensor
    others: dict[str, Tensor]
    special: Tensor
    target: int = 0
    output: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    """Processor seconds for each thing computed once and used by several methods."""

    def forward(self, ids: Tensor | None, mask: Tensor | None = None, *others: Tensor, **options: Any) -> Tensor:
        """Probabilities in float64; ``others`` in the order of the tokenizer's further outputs."""
        rows = len(ids) if ids is not None else len(options["inputs_embeds"])
        mask = self.mask.expand(rows, -1) if mask is None else mask
        given = others or tuple(value.expand(rows, -1) for value in self.others.values())
        arguments = dict(zip(self.others, given, strict=True))
        output = self.subject.model(input_ids=ids, attention_mask=mask, **arguments, **options)
        return output.logits.double().softmax(-1)

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        return self.forward(None, inputs_embeds=embedded)

    def removal(self, how: str, copies: int = 1) -> TokenRemoval:
        """Of this sentence, ``copies`` times: one for each method."""
        tokenizer = self.subject.tokenizer
        token = {"mask": None, "delete": tokenizer.pad_token_id, "replace": tokenizer.mask_token_id}[how]
        tensors = [t.repeat(copies, 1) for t in (self.ids, self.mask, *self.others.values())]
        return TokenRemoval(
            self.forward, tensors[0], tensors[1], tuple(tensors[2:]),
            target=self.target, special_tokens_mask=self.special.repeat(copies, 1), how=how, token_id=token,
        )  # fmt: skip

    def attributions(self, path: str = "layerwise", baseline: str | None = None) -> list[Tensor]:
        """Ours, one (1, head, query, key) a layer."""

        def compute() -> list[Tensor]:
            options = {"target": self.target, "n_steps": self.subject.n_steps, "attention_baselines": baseline}
            return attributions_of(self.forward, self.subject.layers, (self.ids,), path=path, **options)

        return self._once(f"attributions {path} {baseline}", compute)

    @cached_property
    def attention_and_gradient(self) -> tuple[list[Tensor], list[Tensor]]:
        """The attention of each layer and dF/dA, everything above it following: (head, query, key) each."""
        subject = self.subject
        embedded = subject.embeddings(self.ids).requires_grad_()
        output = subject.eager(inputs_embeds=embedded, attention_mask=self.mask, **self.others, output_attentions=True)
        probability = output.logits.double().softmax(-1)[0, self.target]
        gradients = torch.autograd.grad(probability, output.attentions)
        return [a[0].detach() for a in output.attentions], [g[0] for g in gradients]

    @property
    def attention(self) -> list[Tensor]:
        return self._once("attention", lambda: self.attention_and_gradient)[0]

    @property
    def gradient(self) -> list[Tensor]:
        return self._once("attention", lambda: self.attention_and_gradient)[1]

    def integrated_gradients(self) -> Tensor:
        """Captum's LayerIntegratedGradients at its default of 50 steps, from [PAD] in place of each word."""

        def compute() -> Tensor:
            baseline = torch.where(self.special.bool(), self.ids, self.subject.tokenizer.pad_token_id)
            method = LayerIntegratedGradients(self.forward, self.subject.embeddings)
            return method.attribute(self.ids, baselines=baseline, target=self.target).sum(-1)[0]

        return self._once("integrated gradients", compute)

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Computed at the first call; later ones get the result, and its time counts for each method that uses it."""
        store = self.__dict__.setdefault("_stored", {})
        if name not in store:
            start = time.process_time()
            store[name] = compute()
            self.spent[name] = time.process_time() - start
        self.__dict__.setdefault("_used", []).append(name)
        return store[name]

    def timed(self, method: Callable[[Sentence], Any]) -> tuple[Any, float]:
        """What a method gives, and the processor seconds that it would take alone."""
        self.__dict__["_used"], known = [], dict(self.spent)
        start = time.process_time()
        result = method(self)
        elapsed = time.process_time() - start
        shared = sum(known[name] for name in set(self.__dict__["_used"]) if name in known)
        return result, elapsed + shared


def zero_integrated_gradients(s: Sentence) -> Tensor:
    embedded = s.subject.embeddings(s.ids).detach()
    return IntegratedGradients(s.forward_embedded).attribute(embedded, target=s.target).sum(-1)[0]


def input_x_gradient(s: Sentence) -> Tensor:
    """InputXGradient's layer variant."""
    method = LayerGradientXActivation(s.forward, s.subject.embeddings)
    return method.attribute(s.ids, target=s.target).sum(-1)[0]


def saliency(s: Sentence) -> Tensor:
    """The norm of the gradient at each token's embedding."""
    embedded = s.subject.embeddings(s.ids).detach().requires_grad_()
    return Saliency(s.forward_embedded).attribute(embedded, target=s.target, abs=False).norm(dim=-1)[0]


def rollout(s: Sentence) -> Tensor:
    """Abnar and Zuidema (ACL 2020): layers' mean attention and half of each token itself, multiplied up."""
    total = torch.eye(s.ids.shape[1])
    for attention in s.attention:
        total = (0.5 * attention.mean(0) + 0.5 * torch.eye(len(total))) @ total
    return total[0]


def gradient_x_attention(s: Sentence) -> Tensor:
    """Chefer, Gur and Wolf (ICCV 2021), the rule for self-attention: R <- R + mean_h (A dF/dA)^+ R."""
    relevance = torch.eye(s.ids.shape[1])
    for attention, gradient in zip(s.attention, s.gradient, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(0) @ relevance
    return relevance[0] - torch.eye(len(relevance))[0]


def ours(reduction: str, path: str = "layerwise") -> Callable[[Sentence], Tensor]:
    return lambda s: token_scores(s.attributions(path), reduction)[0]


def random(seed: int, shape: Callable[[Sentence], tuple[int, ...]]) -> Callable[[Sentence], Tensor]:
    def scores(s: Sentence) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + int(s.ids.sum()))
        return torch.rand(shape(s), generator=generator)

    return scores


TOKEN_METHODS: dict[str, Callable[[Sentence], Tensor]] = {
    "integrated gradients, [PAD]": Sentence.integrated_gradients,
    "integrated gradients, zero": zero_integrated_gradients,
    "input x gradient": input_x_gradient,
    "saliency": saliency,
    "attention rollout": rollout,
    "attention, last layer": lambda s: s.attention[-1].mean(0)[0],
    "attention, all layers": lambda s: torch.stack(s.attention).mean((0, 1))[0],
    "gradient x attention (Chefer)": gradient_x_attention,
    "ours, received": ours("received"),
    "ours, sent": ours("sent"),
    "ours, first": ours("first"),
    "ours joint, received": ours("received", "joint"),
    "ours joint, first": ours("first", "joint"),
    "leave-one-out": lambda s: leave_one_out(s.removal("mask"))[0].nan_to_num(),
}


def _in_every_head(scores: Callable[[Sentence], Tensor]) -> Callable[[Sentence], list[Tensor]]:
    return lambda s: [scores(s).expand(attention.shape) for attention in s.attention]


def _random_pairs(seed: int) -> Callable[[Sentence], list[Tensor]]:
    def shape(s: Sentence) -> tuple[int, ...]:
        tokens = s.ids.shape[1]
        return len(s.subject.layers), s.subject.model.config.num_attention_heads, tokens, tokens

    scores = random(seed, shape)
    return lambda s: list(scores(s))


PAIR_METHODS: dict[str, Callable[[Sentence], list[Tensor]]] = {
    "raw attention": lambda s: s.attention,
    "attention x gradient": lambda s: [a * g for a, g in zip(s.attention, s.gradient, strict=True)],
    "integrated gradients, outer product": _in_every_head(
        lambda s: s.integrated_gradients()[:, None] * s.integrated_gradients()[None, :]
    ),
    "integrated gradients of the key": _in_every_head(lambda s: s.integrated_gradients()[None, :].float()),
    "ours layerwise": lambda s: [attribution[0] for attribution in s.attributions()],
    "ours joint": lambda s: [attribution[0] for attribution in s.attributions("joint")],
    "ours layerwise, uniform baseline": lambda s: [
        attribution[0] for attribution in s.attributions("layerwise", "uniform")
    ],
}


def token_methods(seeds: int) -> dict[str, Callable[[Sentence], Tensor]]:
    """All of them, and random scores by ``seeds`` seeds."""
    by_seed = {f"random {seed}": random(seed, lambda s: (s.ids.shape[1],)) for seed in range(seeds)}
    return TOKEN_METHODS | by_seed


def pair_methods(seeds: int) -> dict[str, Callable[[Sentence], list[Tensor]]]:
    """All of them, and random scores by ``seeds`` seeds."""
    return PAIR_METHODS | {f"random {seed}": _random_pairs(seed) for seed in range(seeds)}


def heads_of(name: str, scores: list[Tensor]) -> Tensor:
    """(layer, 1, head): the sum of a head's scores; of raw attention, whose sums are all alike, its largest weight."""
    stacked = torch.stack(scores)[:, None].double()
    return head_scores(stacked, "max" if name == "raw attention" else "sum")
