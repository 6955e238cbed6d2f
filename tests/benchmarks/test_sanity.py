"""Attributions change when the model does, and stay when only what does not matter changes."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr import SelfAttentionAttribution, attention_layers, pair_scores
from captum_attattr.demo import load_demo, load_reviews
from captum_attattr.faithfulness import EdgeRemoval, deletion_curve

SENTENCES = ["A warm, funny film.", "Dull and far too long.", "The plot was interesting but the execution was poor."]


@cache
def demo():
    return load_demo()


def attributions_of(model: nn.Module, sentence: str, target: int = 1, n_steps: int = 6, **options):
    def forward(ids: Tensor) -> Tensor:
        return model(ids).logits.softmax(-1)

    ids = demo()[1](sentence, return_tensors="pt")["input_ids"]
    return SelfAttentionAttribution(forward, attention_layers(model)).attribute(
        ids, target=target, n_steps=n_steps, **options
    )


def likeness(one: list[Tensor], other: list[Tensor]) -> float:
    """Strength of the rank correlation of all attributions."""
    ranks = [
        torch.cat([attribution.flatten() for attribution in attributions]).argsort().argsort().double()
        for attributions in (one, other)
    ]
    return abs(float(torch.corrcoef(torch.stack(ranks))[0, 1]))


def drawn_anew(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.copy_(float(parameter.mean()) + spread * torch.randn(parameter.shape, generator=generator))


def test_model_randomisation_from_the_top_down():
    """Adebayo et al., NeurIPS 2018: what is learnt must matter; all drawn anew, nothing of the attributions is left."""
    trained, generator = demo()[0], torch.Generator().manual_seed(0)
    model = copy.deepcopy(trained)
    clean = [attributions_of(trained, sentence) for sentence in SENTENCES]
    steps = [[model.classifier, model.bert.pooler, *model.bert.encoder.layer[3:]],
             [*model.bert.encoder.layer[:3], model.bert.embeddings]]  # fmt: skip
    found = []
    for parts in steps:
        for part in parts:
            drawn_anew(part, generator)
        alike = [likeness(one, attributions_of(model, sentence)) for one, sentence in zip(clean, SENTENCES)]
        found.append(sum(alike) / len(alike))
    assert max(found) < 0.25
    assert found[-1] < 0.1


@cache
def tiny(seed: int, shuffled: bool = False) -> nn.Module:
    """Two layers trained from scratch until they know sixteen sentences by heart."""
    texts, labels = zip(*load_reviews()[:16])
    torch.manual_seed(seed)
    wanted = torch.tensor(labels)
    if shuffled:
        wanted = wanted[torch.randperm(len(wanted), generator=torch.Generator().manual_seed(1))]
    config = BertConfig(
        vocab_size=len(demo()[1]), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    batch = demo()[1](list(texts), padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(**batch, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(**batch).logits.argmax(-1), wanted)
    return model.eval()


def test_label_randomisation_and_another_seed():
    """Models of two seeds lean on the same pairs more than models of true and of shuffled labels do."""
    alike = {"seed": [], "labels": []}
    for text, _ in load_reviews()[:8]:
        clean = pair_scores(attributions_of(tiny(0), text))
        for name, model in (("seed", tiny(1)), ("labels", tiny(0, shuffled=True))):
            pair = torch.stack([clean.flatten(), pair_scores(attributions_of(model, text)).flatten()])
            alike[name].append(float(torch.corrcoef(pair)[0, 1]))
    means = {name: sum(values) / len(values) for name, values in alike.items()}
    assert means["seed"] > means["labels"] + 0.2
    assert means["labels"] < 0.4


def test_completeness_of_every_layer():
    for sentence in SENTENCES:
        attributions, deltas = attributions_of(demo()[0], sentence, n_steps=20, return_convergence_delta=True)
        for attribution, delta in zip(attributions, deltas):
            assert abs(float(delta)) < 1e-2 * float(attribution.norm())


def test_the_baseline_matters():
    model, tokenizer = demo()
    sentence = SENTENCES[2]
    ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
    blank = torch.where(ids > tokenizer.sep_token_id, tokenizer.pad_token_id, ids)
    zero = attributions_of(model, sentence)
    for options in ({"attention_baselines": "uniform"}, {"baselines": blank}):
        other, deltas = attributions_of(model, sentence, n_steps=20, return_convergence_delta=True, **options)
        assert likeness(zero, other) < 0.8
        assert max(float(delta.abs()) for delta in deltas) < 1e-2


def test_padding_and_the_order_of_a_batch_change_nothing():
    model, tokenizer = demo()
    model = copy.deepcopy(model).double()

    def attributed(sentences):
        batch = tokenizer(sentences, padding=True, return_tensors="pt")
        method = SelfAttentionAttribution(lambda i, m: model(i, m).logits.softmax(-1), attention_layers(model))
        return method.attribute(
            batch["input_ids"], target=1, additional_forward_args=batch["attention_mask"], n_steps=3
        )

    together, turned = attributed(SENTENCES), attributed(SENTENCES[::-1])
    alone = attributed(SENTENCES[:1])
    for one, other, single in zip(together, turned, alone):
        torch.testing.assert_close(one, other.flip(0), rtol=1e-9, atol=1e-14)
        expected = torch.zeros_like(one[0])
        expected[:, : single.shape[2], : single.shape[3]] = single[0]
        torch.testing.assert_close(one[0], expected, rtol=1e-9, atol=1e-14)
        assert not one[0, :, single.shape[2] :].any()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_without_the_most_negative_edges_the_target_is_more_probable(sentence):
    """In log-odds, as these sentences are near certainty; a layer's attributions speak for that layer alone."""
    model, tokenizer = demo()
    ids = tokenizer(sentence, return_tensors="pt")["input_ids"]

    def forward(ids):
        return model(ids).logits.double().softmax(-1)

    target = int(forward(ids).argmax())
    removal = EdgeRemoval(forward, attention_layers(model), ids, target=target)
    attributions = attributions_of(model, sentence, target)

    def change(order: str) -> float:
        layers = [removal.within(layer) for layer in range(len(attributions))]
        odds = torch.cat([deletion_curve(layer, attributions, [0.1], order=order).outputs for layer in layers]).logit()
        return float((odds[:, 1] - odds[:, 0]).mean())

    assert change("least") > 0.01
    assert change("most") < -0.1
