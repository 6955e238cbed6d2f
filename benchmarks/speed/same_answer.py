"""The same answer by each method: seconds for one model, length and batch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from benchmarks.setup.attributing import attributed, relative_errors
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.meter import Meter
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers

RUN_TOKENS = {BUNDLED: (2048, 8192), "BERT-base size": (2048, 8192), "BERT-large size": (1024, 4096)}
"""Tokens of a run of Captum's methods; the faster is taken. More are no faster on a CPU, and take gigabytes."""
TOLERANCE = 0.01
OURS_FORWARDS, TOKENS_FORWARDS = 5, 100
"""Roughly what it takes: ours forward passes a layer, token-level integrated gradients in all."""


def cell(size: str, tokens: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model, length and batch: seconds of each method for the whole batch."""
    model, tokenizer = build(size, args.layers)
    ids = sentences(tokenizer, tokens, batch)
    with torch.no_grad():
        model(ids[:1])
        once, _ = timed(model, ids[:1])
        target = torch.cat([model(row).logits.argmax(-1) for row in ids.split(1)]).tolist()
    found = {"size": size, "tokens": ids.shape[1], "batch": batch}
    work = Cell(model, ids, target, once * batch, RUN_TOKENS[size], args)
    return found | work.measure(with_errors=size == BUNDLED and batch == 1)


class Cell:
    """Work that is timed whole where it does not take too long, else in a part, the rest filled in."""

    def __init__(
        self, model: Any, ids: Tensor, target: list[int], forward: float, run_tokens: Sequence[int],
        args: argparse.Namespace,
    ) -> None:  # fmt: skip
        self.model, self.ids, self.target, self.run_tokens = model, ids, target, run_tokens
        self.layers: list[nn.Module] = attention_layers(model)
        self.forward_seconds, self.patience = forward, args.patience
        self.meter = Meter("cpu", args.repeats, args.patience)

    def measure(self, *, with_errors: bool) -> dict[str, Any]:
        """Seconds and, where all layers are timed, the errors of the worst layer."""
        entry = self.ours()
        exact = None
        if with_errors and not entry["ours_estimated"]:
            method = self.method(self.layers)
            exact = method.attribute(self.ids, target=self.target, n_steps=64)
            ours = attributed(method, self.ids, TOLERANCE, target=self.target)[0]
            entry["ours_error"] = float(relative_errors(ours, exact).max())
        for steps in (64, 20):
            entry |= self.by_hand(steps)
            if exact is not None and not entry[f"by_hand_{steps}_estimated"]:
                theirs = by_hand(self.model, self.ids, steps, "riemann_left", self.rows[0], self.target, self.layers)
                entry[f"by_hand_{steps}_error"] = float(relative_errors(theirs, exact).max())
        return entry | self.token_level()

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids).logits
        return logits.softmax(-1)

    def method(self, layers: Sequence[nn.Module]) -> SelfAttentionAttribution[list[Tensor]]:
        return SelfAttentionAttribution(self.forward, list(layers))

    def ours(self) -> dict[str, Any]:
        """All layers; where they would take over five times the patience, the first and the last."""
        estimated = self.forward_seconds * len(self.layers) * OURS_FORWARDS > 5 * self.patience
        layers = [self.layers[0], self.layers[-1]] if estimated else self.layers
        method = self.method(layers)
        attributed(method, self.ids[:1], TOLERANCE, target=self.target[0])  # with the checks
        reached: list[Tensor] = []

        def work() -> None:
            reached.append(attributed(method, self.ids, TOLERANCE, target=self.target)[1].evaluations)

        seconds = self.seconds(work)
        if estimated:
            seconds = (seconds - 2 * self.forward_seconds) * len(self.layers) / 2 + 2 * self.forward_seconds
        return {
            "ours_estimated": estimated, "ours_seconds": seconds, "evaluations": float(reached[0].double().mean()),
        }  # fmt: skip

    def by_hand(self, steps: int) -> dict[str, Any]:
        """All layers and steps; where they would take too long, the first and the last layer with one run's steps."""
        estimated = self.forward_seconds * len(self.layers) * 2 * steps > self.patience
        layers = [self.layers[0], self.layers[-1]] if estimated else self.layers

        def work(rows: int) -> float:
            few, ids, target = self.part(rows, steps) if estimated else (steps, self.ids, self.target)
            run = partial(by_hand, self.model, ids, few, "riemann_left", max(rows, len(ids)), target, layers)
            filled = steps / few * len(self.ids) / len(ids) * len(self.layers) / len(layers)
            return self.seconds(run) * filled

        return {f"by_hand_{steps}_estimated": estimated, f"by_hand_{steps}_seconds": min(map(work, self.rows))}

    def token_level(self) -> dict[str, Any]:
        """LayerIntegratedGradients on the embeddings, its default 50 steps of its default rule."""
        estimated = self.forward_seconds * TOKENS_FORWARDS > self.patience
        method = LayerIntegratedGradients(self.forward, self.model.bert.embeddings)

        def work(rows: int) -> float:
            few, ids, target = self.part(rows, 50) if estimated else (50, self.ids, self.target)
            options = {"target": target, "n_steps": few, "internal_batch_size": max(rows, len(ids))}
            run = partial(method.attribute, ids, baselines=torch.zeros_like(ids), **options)
            return self.seconds(run) * 50 / few * len(self.ids) / len(ids)

        return {"tokens_only_estimated": estimated, "tokens_only_seconds": min(map(work, self.rows))}

    @property
    def rows(self) -> list[int]:
        """Rows of a run of Captum's methods."""
        return [max(1, tokens // self.ids.shape[1]) for tokens in self.run_tokens]

    def part(self, rows: int, steps: int) -> tuple[int, Tensor, list[int]]:
        """Steps and sentences that fill a run, at least two steps."""
        few = min(steps, max(2, rows // len(self.ids)))
        some = min(len(self.ids), max(1, rows // 2))
        return few, self.ids[:some], self.target[:some]

    def seconds(self, run: Callable[[], object]) -> float:
        return float(self.meter.measure(run)["seconds"] or 0)
