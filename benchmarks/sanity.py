"""Sanity of the attributions: do they change when they must, and stay when they must?

    python benchmarks/sanity.py --data sst2/ --output benchmarks/results

* Completeness: for every sentence and layer, the gap between the sum of the attributions and F(A) - F(A0).
* Signs: does the target's probability rise without the 10% most negative edges?
* Baselines: how alike are attributions from no attention, from uniform attention, and from a blanked-out sentence's?
* Padding and order of a batch: in float64, exactly no change but rounding.
* Model randomisation, from the top down: attributions must change.
* Label randomisation, and another seed: tiny models trained here on true and on shuffled labels.

Per-sentence results are appended to sanity.jsonl in the output folder: broken off, the same command goes on.
Without ``--data`` the bundled reviews are used, for training, too.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from faithfulness_methods import Sentence, Subject, attributions_of
from sanity_models import randomized_from_the_top, train_tiny
from sanity_report import write_report
from store import Store
from torch import Tensor, nn
from tqdm import tqdm

from captum_attattr import SelfAttentionAttribution, attention_layers, pair_scores, token_scores
from captum_attattr.demo import REVIEWS
from captum_attattr.faithfulness import EdgeRemoval, deletion_curve
from captum_attattr.files.examples import label_numbers, read_examples

RESULTS = Path(__file__).parent / "results"
REMOVED = 0.1
Record = dict[str, Any]


def attributions_in(model: nn.Module, inputs: tuple[Tensor, Tensor], **options: Any) -> Any:
    """Attributions of all layers of any model, F being a probability in float64."""

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=mask).logits.double().softmax(-1)

    return attributions_of(forward, attention_layers(model), inputs, **options)


def spearman(one: Tensor, other: Tensor) -> float:
    pair = torch.stack([values.flatten().double().argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(pair)[0, 1])


def likeness(one: list[Tensor], other: list[Tensor]) -> dict[str, float]:
    """Of two lists of attributions: rank correlation of all of them, of their magnitudes, of tokens, and the cosine."""
    a, b = (
        torch.cat([attribution.flatten() for attribution in attributions]).double() for attributions in (one, other)
    )
    return {
        "shares": spearman(a, b),
        "magnitudes": spearman(a.abs(), b.abs()),
        "cosine": float(a @ b / (a.norm() * b.norm())),
        "tokens": spearman(token_scores(one)[0], token_scores(other)[0]),
    }


def completeness(sentence: Sentence) -> Record:
    subject, options = sentence.subject, {"target": sentence.target, "return_convergence_delta": True}
    attributions, deltas = attributions_in(
        subject.model, (sentence.ids, sentence.mask), n_steps=subject.n_steps, **options
    )
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
        attributions = attributions_in(subject.model, (sentence.ids, sentence.mask), **options)
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
        return attributions_in(model, (batch["input_ids"], batch["attention_mask"]), target=1, n_steps=subject.n_steps)

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


def model_randomisation(subject: Subject, sentences: list[Sentence], seed: int) -> Iterator[Record]:
    """For each step, one record with the mean likeness to the attributions of the trained model."""
    clean: list[list[Tensor]] = []
    for name, model in tqdm(randomized_from_the_top(subject.model, seed), desc="Randomising", unit="part"):
        attributions = [
            attributions_in(model, (s.ids, s.mask), target=s.target, n_steps=subject.n_steps) for s in sentences
        ]
        clean = clean or attributions
        alike = [likeness(one, other) for one, other in zip(clean, attributions, strict=True)]
        yield {"part": name, "likeness": {kind: [a[kind] for a in alike] for kind in alike[0]}}


def labels(subject: Subject, data: str, sentences: list[Sentence], size: int, epochs: int, seed: int) -> Record:
    """Tiny models on true labels by two seeds, and on shuffled labels: how alike are their attributions?"""
    split = "train" if Path(data).is_dir() else "test"
    examples = read_examples(data, split, labelled=True, limit=size, seed=seed)
    texts, true = [e.text for e in examples], label_numbers(examples, subject.classifier.labels)
    shuffled = random.Random(seed).sample(true, len(true))
    wanted = {"true": (true, seed), "true, another seed": (true, seed + 1), "shuffled": (shuffled, seed)}
    accuracy, attributions = {}, {}
    for name, (targets, number) in wanted.items():
        model, accuracy[name] = train_tiny(subject.tokenizer, texts, targets, number, epochs)
        attributions[name] = [
            attributions_in(model, (s.ids, s.mask), target=1, n_steps=subject.n_steps) for s in sentences
        ]
    found: Record = {"training accuracy": accuracy, "sentences": len(texts), "epochs": epochs}
    for name in ("true, another seed", "shuffled"):
        # Heads of two models have nothing to do with each other: pairs are compared summed over layers and heads.
        pairs = zip(attributions["true"], attributions[name], strict=True)
        found[name] = [(spearman(pair_scores(a), pair_scores(b)), spearman(token_scores(a), token_scores(b)))
                       for a, b in pairs]  # fmt: skip
    return found


def measure(args: argparse.Namespace, store: Store) -> None:
    examples = read_examples(args.data, args.split)
    order = list(range(len(examples)))
    random.Random(args.seed).shuffle(order)
    order = order[: args.limit]
    subject = Subject(args.model, args.steps)
    few = [subject.sentence(examples[place].text) for place in order[: args.some]]
    for place in tqdm(order, desc="Completeness", unit="sentence"):
        store.get(f"completeness {place}", lambda p=place: completeness(subject.sentence(examples[p].text)))
    for name, check in (("signs", signs), ("baselines", baselines)):
        for place, sentence in zip(tqdm(order[: args.some], desc=name, unit="sentence"), few, strict=True):
            store.get(f"{name} {place}", lambda s=sentence, c=check: c(s))
    store.get("padding", lambda: padding(subject, [examples[place].text for place in order[:6]]))
    store.get("model", lambda: list(model_randomisation(subject, few[: args.models], args.seed)))
    store.get("labels", lambda: labels(subject, args.data, few, args.train, args.epochs, args.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(REVIEWS), help="a TSV file, or a folder with {split}.tsv and train.tsv")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", help="a folder or a name on the Hugging Face Hub; the bundled model by default")
    parser.add_argument("--limit", type=int, help="only so many sentences for completeness")
    parser.add_argument("--some", type=int, default=100, help="sentences for signs, baselines and labels")
    parser.add_argument("--models", type=int, default=40, help="sentences for the randomised models")
    parser.add_argument("--train", type=int, default=2000, help="sentences to train the tiny models on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="evaluations on the path, for each sentence and layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    named = ("split", "some", "models", "train", "epochs", "seed")
    settings = {"data": Path(args.data).name, "model": args.model or "bundled", "n_steps": args.steps}
    settings |= {name: getattr(args, name) for name in named}
    store = Store(args.output / "sanity.jsonl", settings)
    measure(args, store)
    print(write_report(store.results, settings, args.output))


if __name__ == "__main__":
    main()
