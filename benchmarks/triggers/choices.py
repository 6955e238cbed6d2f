"""Ways of choosing the words of triggers from the same training sentences, which are compared."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor
from tqdm import tqdm

from benchmarks.setup.attributing import predicted
from benchmarks.triggers.report import PAIR, SHAPE, WORD
from captum_attattr.files.examples import Example, texts_and_pairs
from captum_attattr.text.classifier import Batch, Classifier
from captum_attattr.triggers import Trigger, extract_triggers
from captum_attattr.triggers.extraction import strongest, token_words


def by_attention(examples: Sequence[Example], classifier: Classifier, args: argparse.Namespace) -> list[Trigger]:
    return extract_triggers(
        examples, classifier.model, classifier.tokenizer, top=args.top, n_steps=args.steps, show_progress=True
    )


def by_tokens(examples: Sequence[Example], classifier: Classifier, args: argparse.Namespace) -> list[Trigger]:
    found = []
    with tqdm(total=len(examples), desc="Integrated gradients", unit="text") as bar:
        for batch in classifier.batches(*texts_and_pairs(examples), 8):
            attributions, classes = integrated_gradients(batch, classifier, args.token_steps)
            for row, place in enumerate(batch.places):
                scores = attributions[row, : len(batch.tokens[row])].masked_fill(
                    torch.tensor(batch.special[row]), -torch.inf
                )
                best = scores.topk(min(2, int(scores.isfinite().sum())))
                words = token_words(examples[place], batch.tokens[row], classifier.tokenizer)
                chosen = sorted({words[token] for token in best.indices.tolist()})
                found.append(
                    Trigger(
                        tuple(word.text for word in chosen), tuple(word.position for word in chosen),
                        label=classifier.labels[classes[row]], shares=tuple(best.values.tolist()),
                    )
                )  # fmt: skip
            bar.update(len(batch.places))
    return strongest(found, classifier.labels, args.top)


def integrated_gradients(batch: Batch, classifier: Classifier, n_steps: int) -> tuple[Tensor, list[int]]:
    """One attribution a token (batch, token), of the probability of the predicted class, and the classes."""
    ids, *rest = batch.inputs
    classes = predicted(classifier, batch)
    padding = torch.full_like(ids, classifier.tokenizer.pad_token_id)
    for row, special in enumerate(batch.special):
        kept = torch.tensor(special).nonzero().flatten()
        padding[row, kept] = ids[row, kept]
    method = LayerIntegratedGradients(classifier.outputs, classifier.model.get_input_embeddings())
    attributions: Tensor = method.attribute(
        ids, padding, target=classes, additional_forward_args=tuple(rest), n_steps=n_steps, internal_batch_size=64
    )
    return attributions.sum(-1).detach(), classes


def at_random(
    examples: Sequence[Example], labels: Sequence[str], ours: Sequence[Trigger], top: int, seed: int
) -> dict[str, list[Trigger]]:
    draw = random.Random(seed)
    words = {
        label: [example.text.split() for example in examples if example.label in (label, str(number))]
        for number, label in enumerate(labels)
    }
    triggers: dict[str, list[Trigger]] = {SHAPE: [], PAIR: [], WORD: []}
    for trigger in ours:
        drawn = tuple(draw.choice(draw.choice(words[trigger.label])) for _ in trigger.words)
        triggers[SHAPE].append(Trigger(drawn, trigger.positions, label=trigger.label))
    for method, count in ((PAIR, 2), (WORD, 1)):
        for label in (label for label in labels if words[label] for _ in range(top)):
            sentence = draw.choice(words[label])
            places = sorted(draw.sample(range(len(sentence)), min(count, len(sentence))))
            positions = tuple(place / max(len(sentence) - 1, 1) for place in places)
            triggers[method].append(Trigger(tuple(sentence[place] for place in places), positions, label=label))
    return triggers
