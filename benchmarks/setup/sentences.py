"""Sentences as a model takes them: its predicted class, F in float64, and what several methods need of them."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attribution.self_attention import PathName
from captum_attattr.files.examples import read_examples
from captum_attattr.text.classifier import Classifier

T = TypeVar("T")


def texts_in_random_order(data: Path, split: str, seed: int, limit: int | None) -> dict[int, str]:
    """By place in the file, texts in an order of which a smaller limit takes the first."""
    examples = read_examples(data, split)
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    return {place: examples[place].text for place in order[:limit]}


class Subject:
    """The model under examination.

    Args:
        name: A folder or a name on the Hugging Face Hub; None for the bundled model.
        n_steps: Evaluations on the path of our method, for each layer.
    """

    def __init__(self, name: str | None, n_steps: int) -> None:
        self.n_steps = n_steps
        self.classifier = Classifier(name, None, "logit")
        self.model = self.classifier.model.requires_grad_(False)
        self.tokenizer = self.classifier.tokenizer
        self.layers = attention_layers(self.model)
        self.embeddings = self.model.get_input_embeddings()

    @cached_property
    def eager(self) -> Any:
        """A copy with attention that gives its probabilities away."""
        model = copy.deepcopy(self.model)
        model.set_attn_implementation("eager")
        return model

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
    """One sentence, its predicted class, and F: the probability of that class, in float64."""

    subject: Subject
    ids: Tensor
    mask: Tensor
    others: dict[str, Tensor]
    special: Tensor
    target: int = 0
    output: float = 0.0
    _known: dict[str, Any] = field(default_factory=dict)
    _spent: dict[str, float] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def forward(self, ids: Tensor | None, mask: Tensor | None = None, *others: Tensor, **options: Any) -> Tensor:
        """Probabilities in float64; ``others`` in the order of the tokenizer's further outputs."""
        rows = len(ids) if ids is not None else len(options["inputs_embeds"])
        mask = self.mask.expand(rows, -1) if mask is None else mask
        given = others or tuple(value.expand(rows, -1) for value in self.others.values())
        arguments = dict(zip(self.others, given, strict=True))
        logits: Tensor = self.subject.model(input_ids=ids, attention_mask=mask, **arguments, **options).logits
        return logits.double().softmax(-1)

    def attributions(self, path: PathName = "layerwise", baseline: str | None = None) -> list[Tensor]:
        """Ours, one (1, head, query, key) a layer."""
        method = SelfAttentionAttribution(self.forward, self.subject.layers, path=path)

        def compute() -> list[Tensor]:
            return method.attribute(
                self.ids, target=self.target, n_steps=self.subject.n_steps, attention_baselines=baseline
            )

        return self.once(f"attributions {path} {baseline}", compute)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Computed at the first call; later ones get the result, and its time counts for each method that uses it."""
        if name not in self._known:
            start = time.process_time()
            self._known[name] = compute()
            self._spent[name] = time.process_time() - start
        self._used.add(name)
        found: T = self._known[name]
        return found

    def timed(self, method: Callable[[Sentence], T]) -> tuple[T, float]:
        """What a method gives, and the processor seconds that it would take alone."""
        self._used, known = set(), dict(self._spent)
        start = time.process_time()
        result = method(self)
        elapsed = time.process_time() - start
        return result, elapsed + sum(known[name] for name in self._used if name in known)
