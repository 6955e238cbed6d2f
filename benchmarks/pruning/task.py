"""The model without some of its heads, the importance of heads, and what is known of both so far."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.setup.results import Store
from captum_attattr.files.examples import Example, label_numbers
from captum_attattr.heads import Ablation, AttAttr, Attention, Measure, Taylor
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.outputs import Examples
from captum_attattr.pruning import prune_heads
from captum_attattr.text.classifier import Batch, Classifier

Head = tuple[int, int]
Target = Literal["gold", "predicted"]

CHUNK = 10
# Four Gauss-Legendre steps: what that costs in accuracy is measured, too ("steps").
MEASURES: dict[str, Measure] = {
    "attattr": AttAttr(n_steps=4, tolerance=None),
    "taylor": Taylor(),
    "attention": Attention(),
    "ablation": Ablation(),
}
# Attention does not ask what the output is.
PREDICTED = ("attattr", "taylor", "ablation")


@dataclass
class Kept(Measure):
    """Another measure, whose scores of single examples are kept."""

    inner: Measure
    rows: list[torch.Tensor]

    @property
    def name(self) -> str:
        return self.inner.name

    def scores(self, examples: Examples) -> list[torch.Tensor]:
        found = self.inner.scores(examples)
        self.rows += [torch.cat(row) for row in zip(*(layer.double() for layer in found), strict=True)]
        return found


@dataclass
class Task:
    """The model, the sentences, and what is known so far."""

    classifier: Classifier
    test: list[Example]
    other: list[Example]
    count: int
    """How many of the other sentences the importance is taken on."""
    store: Store

    def __post_init__(self) -> None:
        self.lengths = [len(self.classifier.tokenizer(example.text)["input_ids"]) for example in self.other]
        texts = [example.text for example in self.test]
        self.batches: list[Batch] = list(self.classifier.batches(texts, None, 32))
        self.labels = label_numbers(self.test, self.classifier.labels)
        self.grid = [(layer, head) for layer in range(self.layers) for head in range(self.heads)]

    @property
    def model(self) -> Any:
        return self.classifier.model

    @property
    def layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @property
    def heads(self) -> int:
        return int(self.model.config.num_attention_heads)

    def without(self, heads: Iterable[Head]) -> Any:
        """A copy of the model with these heads cut out, which is the model with them masked, and faster."""
        return prune_heads(copy.deepcopy(self.model), sorted(heads)).eval()

    def right(self, removed: Sequence[Head]) -> np.ndarray:
        """Which test sentences are classified right without these heads."""
        name = "right " + hashlib.sha256(repr(sorted(removed)).encode()).hexdigest()[:16]

        def compute() -> str:
            model, right = self.without(removed), np.zeros(len(self.test), dtype=bool)
            with torch.inference_mode():
                for batch in self.batches:
                    found = model(**dict(zip(self.classifier.input_names, batch.inputs, strict=True))).logits.argmax(-1)
                    for place, label in zip(batch.places, found.tolist(), strict=True):
                        right[place] = label == self.labels[place]
            return np.packbits(right).tobytes().hex()

        bits = np.frombuffer(bytes.fromhex(self.store.get(name, compute)), dtype=np.uint8)
        return np.unpackbits(bits)[: len(self.test)].astype(bool)

    def scores(
        self, measure: Measure, wanted: range, target: Target = "gold", removed: Sequence[Head] = ()
    ) -> np.ndarray:
        """Scores (sentence, layers, heads) of single sentences in their order, NaN for removed heads."""
        gone = hashlib.sha256(repr(sorted(removed)).encode()).hexdigest()[:8] if removed else "none"
        # Sentences of like length go together, so that nothing is padded for long.
        order = sorted(wanted, key=lambda place: self.lengths[place])
        there = np.array([place for place, head in enumerate(self.grid) if head not in set(removed)], dtype=int)
        found = np.full((len(wanted), len(self.grid)), np.nan)
        model = cache(lambda: self.without(removed))
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            name = f"importance {measure.name} {target} {gone} {wanted} {start}"
            rows = np.array([place - wanted.start for place in places])
            found[np.ix_(rows, there)] = self.store.get(name, self._single_scores, model, measure, places, target)
        return found.reshape(len(wanted), self.layers, self.heads)

    def _single_scores(
        self, model: Callable[[], Any], measure: Measure, places: Sequence[int], target: Target
    ) -> list[list[float]]:
        kept = Kept(measure, [])
        scorer = HeadImportance(model(), measure=kept, target=target)
        scorer.run([self.other[place] for place in places], tokenizer=self.classifier.tokenizer)
        return [row.tolist() for row in kept.rows]

    def importance(self, measure: Measure, target: Target = "gold", removed: Sequence[Head] = ()) -> np.ndarray:
        """Mean scores (layers, heads) over the sentences of the experiment."""
        mean: np.ndarray = self.scores(measure, range(self.count), target, removed).mean(0)
        return mean
