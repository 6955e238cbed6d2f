"""Effect on a model of triggers that self-attention attribution finds, against other ways of choosing words.

    python benchmarks/triggers.py --data FOLDER

FOLDER holds ``train.tsv`` and ``test.tsv`` with the columns sentence and label, as SST-2. In each of five rounds
(seeds) a random choice of training sentences is searched for the strongest three triggers of each class. A trigger of a
class is meant to turn texts of the *other* classes: each is put into every test sentence of those, at the same relative
positions, and the figure is the accuracy that is left on them. Five ways of choosing the words, all from the same
training sentences:

* attention attribution: ``extract_triggers`` (Hao et al., AAAI 2021).
* token-level integrated gradients: Captum's ``LayerIntegratedGradients`` over the word embeddings, [PAD] as baseline;
  the two tokens of a sentence with the largest attributions, the sentences ranked by the sum of the two.
* random, same shape: as many words as attention attribution has, at its positions, each from a random sentence of the
  class.
* random pair, random word: two words, or one, of a random sentence of the class, where they stood there.

Finished parts are kept in ``triggers.jsonl`` beside the results until all are there: the same command goes on
where it was broken off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from machine import environment
from store import Store
from tqdm import tqdm
from triggers_report import METHODS, OURS, PAIR, SHAPE, TOKENS, WORD, draw, summary, table

from captum_attattr.files.examples import Example, read_examples, texts_and_pairs
from captum_attattr.text.classifier import Batch, Classifier
from captum_attattr.triggers import Trigger, attack, extract_triggers
from captum_attattr.triggers.extraction import strongest, token_words

RESULTS = Path(__file__).parent / "results"


# Five ways to triggers


def by_attention(examples: Sequence[Example], classifier: Classifier, args: argparse.Namespace) -> list[Trigger]:
    return extract_triggers(
        examples, classifier.model, classifier.tokenizer, top=args.top, n_steps=args.steps, show_progress=True
    )


def by_tokens(examples: Sequence[Example], classifier: Classifier, args: argparse.Namespace) -> list[Trigger]:
    found = []
    with tqdm(total=len(examples), desc="Integrated gradients", unit="text") as bar:
        for batch in classifier.batches(*texts_and_pairs(examples), 8):
            attributions, predicted = integrated_gradients(batch, classifier, args.token_steps)
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
                        label=classifier.labels[predicted[row]], shares=tuple(best.values.tolist()),
                    )
                )  # fmt: skip
            bar.update(len(batch.places))
    return strongest(found, classifier.labels, args.top)


def integrated_gradients(batch: Batch, classifier: Classifier, n_steps: int) -> tuple[torch.Tensor, list[int]]:
    """One attribution a token (batch, token), of the probability of the predicted class, and the classes."""
    ids, *rest = batch.inputs
    with torch.no_grad():
        predicted = classifier.outputs(*batch.inputs).argmax(-1).tolist()
    padding = torch.full_like(ids, classifier.tokenizer.pad_token_id)
    for row, special in enumerate(batch.special):
        kept = torch.tensor(special).nonzero().flatten()
        padding[row, kept] = ids[row, kept]
    method = LayerIntegratedGradients(classifier.outputs, classifier.model.get_input_embeddings())
    attributions = method.attribute(
        ids, padding, target=predicted, additional_forward_args=tuple(rest), n_steps=n_steps, internal_batch_size=64
    )
    return attributions.sum(-1).detach(), predicted


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


# The rounds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    classifier = Classifier(args.model, None, "probability")
    training = [e for e in read_examples(args.data, "train", labelled=True) if len(e.text.split()) >= args.words]
    test = read_examples(args.data, labelled=True, limit=args.limit, seed=args.seed)
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "data")}
    texts = "\n".join(f"{example.label}\t{example.text}" for example in [*training, *test])
    settings["data"] = hashlib.sha256(texts.encode()).hexdigest()[:16]
    args.output.mkdir(parents=True, exist_ok=True)
    parts = Store(args.output / "triggers.jsonl", settings)
    if len({example.label for example in test}) < 2:
        raise SystemExit("The test sentences are all of one class: a trigger has nothing to turn. Take more of them.")
    rounds = []
    for seed in range(args.seed, args.seed + args.seeds):
        examples = random.Random(seed).sample(
            training, min(args.sentences, args.limit or args.sentences, len(training))
        )
        rounds.append(one_round(seed, examples, test, classifier, parts, args))
    return {
        "settings": settings,
        "model": classifier.name,
        "labels": classifier.labels,
        "test_sentences": len(test),
        "training_sentences_long_enough": len(training),
        "rounds": rounds,
        "environment": environment(),
    }


def one_round(
    seed: int, examples: Sequence[Example], test: Sequence[Example], classifier: Classifier, parts: Store,
    args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    def found(method: str, search: Callable[..., list[Trigger]]) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            start = time.perf_counter()
            triggers = search(examples, classifier, args)
            # The sentences themselves are not ours to pass on.
            bare = [vars(replace(trigger, source=None, source_pair=None)) for trigger in triggers]
            return {"seconds": time.perf_counter() - start, "triggers": bare}

        return parts.get(f"{seed}: {method}", work)

    searched = {OURS: found(OURS, by_attention), TOKENS: found(TOKENS, by_tokens)}
    triggers = {method: [Trigger(**one) for one in part["triggers"]] for method, part in searched.items()}
    triggers |= at_random(examples, classifier.labels, triggers[OURS], args.top, seed)

    def attacked() -> list[dict[str, Any]]:
        rows = []
        for label in classifier.labels:
            others = [example for example in test if classifier.target(example.label) != classifier.labels.index(label)]
            own = [(method, trigger) for method in METHODS for trigger in triggers[method] if trigger.label == label]
            if not own or not others:
                continue
            chosen = [trigger for _, trigger in own]
            result = attack(others, chosen, classifier.model, classifier.tokenizer, show_progress=True)
            rows += [
                {
                    "method": method, "label": label, "words": trigger.words, "positions": trigger.positions,
                    "score": trigger.score if trigger.shares else None, "others": len(others),
                    "others_before": result.before.total, "others_after": after.total,
                }
                for (method, trigger), after in zip(own, result.after, strict=True)
            ]  # fmt: skip
        return rows

    seconds = {method: part["seconds"] / len(examples) for method, part in searched.items()}
    rows = parts.get(f"{seed}: attack", attacked)
    return {"seed": seed, "sentences": len(examples), "seconds_a_sentence": seconds, "triggers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and test.tsv")
    parser.add_argument("--model", help="classification model, a name or a folder (default: the bundled one)")
    parser.add_argument("--limit", type=int, help="only so many test and training sentences, for a quick look")
    parser.add_argument("--sentences", type=int, default=150, help="training sentences searched in a round")
    parser.add_argument(
        "--words", type=int, default=13, help="words that a training sentence needs (the authors: 15 tokens)"
    )
    parser.add_argument("--top", type=int, default=3, help="triggers of each class")
    parser.add_argument("--steps", type=int, default=6, help="steps of attention attribution")
    parser.add_argument("--token-steps", type=int, default=50, help="steps of integrated gradients (Captum's default)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round")
    parser.add_argument("--seeds", type=int, default=5, help="number of rounds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    figures = measure(args)
    figures["summary"] = summary(figures)
    (args.output / "triggers.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "triggers.md").write_text(table(figures))
    draw(figures, args.output / "triggers.png")
    (args.output / "triggers.jsonl").unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
