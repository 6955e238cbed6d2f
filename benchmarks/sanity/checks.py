"""What is checked of the attributions: how they change when the model, its inputs, or the baseline do."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.sanity.models import randomized_from_the_top, train_tiny
from benchmarks.setup.rank_correlation import rank_correlation
from benchmarks.setup.sentences import Sentence, Subject
from captum_attattr import SelfAttentionAttribution, attention_layers, pair_scores, token_scores
from captum_attattr.faithfulness import EdgeRemoval, deletion_curve
from captum_attattr.files.examples import label_numbers, read_examples

REMOVED = 0.1
Record = dict[str, Any]


def method_of(model: Any) -> SelfAttentionAttribution[list[Tensor]]:
    """For all layers of any model, F being a probability in float64."""

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits.double().softmax(-1)

    return SelfAttentionAttribution(forward, attention_layers(model))


def attributions_in(model: Any, ids: Tensor, mask: Tensor, **options: Any) -> list[Tensor]:
    found: list[Tensor] = method_of(model).attribute(ids, additional_forward_args=mask, **options)
    return found


def likeness(one: list[Tensor], other: list[Tensor]) -> dict[str, float]:
    """Of two lists of attributions: rank correlation of all of them, of their magnitudes, of tokens, and the cosine."""
    a, b = (
        torch.cat([attribution.flatten() for attribution in attributions]).double() for attributions in (one, other)
    )
    return {
        "shares": rank_correlation(a, b),
        "magnitudes": rank_correlation(a.abs(), b.abs()),
        "cosine": float(a @ b / (a.norm() * b.norm())),
        "tokens": rank_correlation(token_scores(one)[0], token_scores(other)[0]),
    }


def completeness(subject: Subject, text: str) -> Record:
    sentence = subject.sentence(text)
    attributions, deltas = method_of(subject.model).attribute(
        sentence.ids, additional_forward_args=sentence.mask, target=sentence.target, n_steps=subject.n_steps,
        return_convergence_delta=True,
    )  # fmt: skip
    sums = [float(attribution.sum()) for attribution in attributions]
    norms = [float(attribution.norm()) for attribution in attributions]
    return {"delta": [float(delta) for delta in deltas], "sum": sums, "norm": norms, "output": sentence.output}


def signs(sentence: Sentence) -> Record:
    """F and what it becomes without the most negative tenth of the edges, and without a random tenth."""
    removal = EdgeRemoval(sentence.forward, sentence.subject.layers, sentence.ids, target=sentence.target)
    attributions = sentence.attributions()
    generator = torch.Generator().manual_seed(int(sentence.ids.sum()))
    chance = [torch.rand(attribution.shape, generator=generator) for attribution in attributions]
    found: Record = {"output": sentence.output}
    for name, scores in (("negative", attributions), ("random", chance)):
        everywhere = deletion_curve(removal, scores, [REMOVED], order="least").outputs[0, 1]
        layers = [removal.within(number) for number in range(len(attributions))]
        alone = [float(deletion_curve(layer, scores, [REMOVED], order="least").outputs[0, 1]) for layer in layers]
        found[name] = {"all layers": float(everywhere), "one layer": alone}
    return found


def baselines(sentence: Sentence) -> Record:
    """Likeness of the attributions from other baselines to those from no attention."""
    subject, zero = sentence.subject, sentence.attributions()
    found = {"uniform attention": likeness(zero, sentence.attributions("layerwise", "uniform"))}
    for name, blank in (("[PAD]", subject.tokenizer.pad_token_id), ("[MASK]", subject.tokenizer.mask_token_id)):
        at = _attention(sentence, torch.where(sentence.special.bool(), sentence.ids, blank))
        options = {"target": sentence.target, "attention_baselines": at, "n_steps": subject.n_steps}
        attributions = attributions_in(subject.model, sentence.ids, sentence.mask, **options)
        found[f"attention of {name} in place of words"] = likeness(zero, attributions)
    return found


def _attention(sentence: Sentence, ids: Tensor) -> list[Tensor]:
    method = SelfAttentionAttribution(sentence.forward, sentence.subject.layers)
    return list(method.attention_function(ids).attention)


def padding(subject: Subject, texts: list[str]) -> Record:
    """Largest relative difference, in float64, between attributions alone, in a padded batch, and in another order."""
    model = copy.deepcopy(subject.model).double()

    def attributed(some: list[str]) -> list[Tensor]:
        batch = subject.tokenizer(some, padding=True, return_tensors="pt")
        return attributions_in(model, batch["input_ids"], batch["attention_mask"], target=1, n_steps=subject.n_steps)

    together, turned, found = attributed(texts), attributed(texts[::-1]), {"padding": 0.0, "shares of padding": 0.0}
    for row, text in enumerate(texts):
        for attribution, batch in zip(attributed([text]), together, strict=True):
            expected = torch.zeros_like(batch[row])
            expected[:, : attribution.shape[-1], : attribution.shape[-1]] = attribution[0]
            outside = float(batch[row].masked_fill(expected != 0, 0).abs().max())
            found["padding"] = max(found["padding"], float((expected - batch[row]).norm() / attribution.norm()))
            found["shares of padding"] = max(found["shares of padding"], outside)
    order = max(float((a - b.flip(0)).norm() / a.norm()) for a, b in zip(together, turned, strict=True))
    return found | {"order": order}


def model_randomisation(subject: Subject, sentences: list[Sentence], seed: int) -> list[Record]:
    """For each step, one record with the likeness to the attributions of the trained model."""
    clean: list[list[Tensor]] = []
    found = []
    for name, model in tqdm(randomized_from_the_top(subject.model, seed), desc="Randomising", unit="part"):
        attributions = [
            attributions_in(model, s.ids, s.mask, target=s.target, n_steps=subject.n_steps) for s in sentences
        ]
        clean = clean or attributions
        alike = [likeness(one, other) for one, other in zip(clean, attributions, strict=True)]
        found.append({"part": name, "likeness": {kind: [a[kind] for a in alike] for kind in alike[0]}})
    return found


def labels(subject: Subject, data: Path, sentences: list[Sentence], size: int, epochs: int, seed: int) -> Record:
    """Tiny models on true labels by two seeds, and on shuffled labels: how alike are their attributions?"""
    split = "train" if data.is_dir() else "test"
    examples = read_examples(data, split, labelled=True, limit=size, seed=seed)
    texts, true = [e.text for e in examples], label_numbers(examples, subject.classifier.labels)
    shuffled = random.Random(seed).sample(true, len(true))
    wanted = {"true": (true, seed), "true, another seed": (true, seed + 1), "shuffled": (shuffled, seed)}
    accuracy, attributions = {}, {}
    for name, (targets, number) in wanted.items():
        model, accuracy[name] = train_tiny(subject.tokenizer, texts, targets, number, epochs)
        attributions[name] = [
            attributions_in(model, s.ids, s.mask, target=1, n_steps=subject.n_steps) for s in sentences
        ]
    found: Record = {"training accuracy": accuracy, "sentences": len(texts), "epochs": epochs}
    for name in ("true, another seed", "shuffled"):
        # Heads of two models have nothing to do with each other: pairs are compared summed over layers and heads.
        found[name] = [
            tuple(rank_correlation(scores(one), scores(other)) for scores in (pair_scores, token_scores))
            for one, other in zip(attributions["true"], attributions[name], strict=True)
        ]
    return found
