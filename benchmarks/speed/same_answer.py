"""The same answer by each method: seconds for one model, length and batch."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor

from benchmarks.setup.attributing import attributed, relative_errors
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers

# Of a batch of Captum's methods: larger ones are no faster on a CPU, and take many gigabytes.
MOST_TOKENS = {BUNDLED: 8192, "BERT-base size": 8192, "BERT-large size": 4096}


def cell(size: str, tokens: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model, length and batch: seconds of each method for the whole batch; none where a pass takes too long."""
    model, tokenizer = build(size, args.layers)
    ids = sentences(tokenizer, tokens, batch)
    found: dict[str, Any] = {"size": size, "tokens": ids.shape[1], "batch": batch}
    if f"{size}, {tokens}, {batch}" in args.skip:
        return found
    with torch.no_grad():
        once, _ = timed(model, ids[:1])
        if once * batch > args.most:
            return found
        target = model(ids).logits.argmax(-1).tolist()
    whole = once * batch * len(attention_layers(model)) * 20 < args.patience
    return found | Cell(size, model, ids, target, whole).measure(with_errors=size == BUNDLED and batch == 1)


class Cell:
    """Work that is timed whole, or in the first and last layer and one batch of steps, the rest filled in."""

    def __init__(self, size: str, model: Any, ids: Tensor, target: list[int], whole: bool) -> None:
        self.model, self.ids, self.target, self.whole = model, ids, target, whole
        self.most_rows = MOST_TOKENS[size] // ids.shape[1]
        layers = attention_layers(model)
        self.layers = layers if whole else [layers[0], layers[-1]]
        self.parts = len(layers) / len(self.layers)

    def measure(self, *, with_errors: bool) -> dict[str, Any]:
        """Seconds and, where the work is timed whole, the errors of the worst layer."""
        method = SelfAttentionAttribution(self.forward, self.layers)
        seconds, found, evaluations = self.ours(method)
        entry: dict[str, Any] = {"estimated": not self.whole, "ours_seconds": seconds, "evaluations": evaluations}
        exact = method.attribute(self.ids, target=self.target, n_steps=64) if with_errors and self.whole else None
        for steps in (64, 20):
            few = self.steps_timed(steps)
            seconds, theirs = timed(
                by_hand, self.model, self.ids, few, "riemann_left", self.rows(few), self.target, self.layers
            )
            entry[f"by_hand_{steps}_seconds"] = seconds * self.parts * steps / few
            if exact is not None:
                entry[f"by_hand_{steps}_error"] = float(relative_errors(theirs, exact).max())
        if exact is not None:
            entry["ours_error"] = float(relative_errors(found, exact).max())
        return entry | {"tokens_only_seconds": self.token_level()}

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids).logits
        return logits.softmax(-1)

    def ours(self, method: SelfAttentionAttribution[list[Tensor]]) -> tuple[float, list[Tensor], float]:
        """Seconds for all layers, attributions of those timed, and mean evaluations; a first run does not count."""
        attributed(method, self.ids[:1], 0.01, target=self.target[0])
        runs = [timed(attributed, method, self.ids, 0.01, target=self.target) for _ in range(3 if self.whole else 1)]
        seconds = statistics.median(run[0] for run in runs)
        if not self.whole:
            shared, _ = timed(lambda: torch.autograd.backward(self.forward(self.ids).sum()))
            self.model.zero_grad()
            seconds = (seconds - shared) * self.parts + shared
        _, (found, reached, _) = runs[0]
        return seconds, found, float(reached.evaluations.double().mean())

    def token_level(self) -> float:
        """LayerIntegratedGradients on the embeddings, its default 50 steps of its default rule."""
        steps = self.steps_timed(50)
        method = LayerIntegratedGradients(self.forward, self.model.bert.embeddings)
        seconds, _ = timed(
            method.attribute, self.ids, baselines=torch.zeros_like(self.ids), target=self.target, n_steps=steps,
            internal_batch_size=self.rows(steps),
        )  # fmt: skip
        return seconds * 50 / steps

    def steps_timed(self, steps: int) -> int:
        """All of them, or as many as fill a batch as large as Captum's methods are given here."""
        return steps if self.whole else min(steps, max(2, self.most_rows // len(self.ids)))

    def rows(self, steps: int) -> int:
        return max(len(self.ids), min(steps * len(self.ids), self.most_rows))
