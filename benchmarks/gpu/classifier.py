"""Sentences of a classifier, explained by our method and by two of Captum's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from benchmarks.gpu.sizes import TOLERANCE, Sizes
from benchmarks.setup.attributing import attributed, summary
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.meter import Meter
from benchmarks.setup.sized_models import random_bert, sentences
from captum_attattr import SelfAttentionAttribution, attention_layers

ROWS = (16, 64, 256, 1024)
"""A run of the model, tried for Captum's methods."""


def classifier(sizes: Sizes, dtype: str, batch: int, how: str, meter: Meter) -> dict[str, Any]:
    """Figures of one of the methods."""
    model, ids = bert(sizes, dtype, meter.device), sentences(None, sizes.tokens, batch).to(meter.device)
    with torch.no_grad():
        target = model(ids).logits.argmax(-1).tolist()
    found = METHODS[how](Texts(model, ids, target), meter)
    return {"batch": batch, "how": how} | found | {"per_second": batch / found["seconds"]}


@lru_cache(maxsize=1)
def bert(sizes: Sizes, dtype: str, device: str) -> Any:
    return random_bert(*sizes.classifier).to(device, getattr(torch, dtype))


@dataclass(frozen=True)
class Texts:
    """A classifier, sentences as it takes them, and their predicted classes."""

    model: Any
    ids: Tensor
    target: list[int]

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids).logits
        return logits.float().softmax(-1)

    def rows(self, steps: int) -> set[int]:
        """Those tried: at least one step of each sentence, at most all steps."""
        count = len(self.ids)
        return {min(max(rows, count), steps * count) for rows in ROWS}


def ours(texts: Texts, meter: Meter) -> dict[str, Any]:
    method = SelfAttentionAttribution(texts.forward, attention_layers(texts.model))
    found = meter.measure(partial(attributed, method, texts.ids, TOLERANCE, target=texts.target))
    return found | summary(method)


def injected(texts: Texts, meter: Meter) -> dict[str, Any]:
    """64 left Riemann steps: of all layers, or of the first and last where all would take too long."""
    layers = attention_layers(texts.model)

    def work(rows: int, some: list[nn.Module]) -> object:
        return by_hand(texts.model, texts.ids, 64, "riemann_left", rows, texts.target, some)

    rows, seconds = meter.fastest(partial(work, some=layers[:1]), texts.rows(64))
    whole = seconds * len(layers) <= meter.patience
    some = layers if whole else [layers[0], layers[-1]]
    found: dict[str, Any] = meter.measure(partial(work, rows, some))
    found["seconds"] *= len(layers) / len(some)
    return found | {"rows": rows, "estimated": not whole}


def token_level(texts: Texts, meter: Meter) -> dict[str, Any]:
    """On the embeddings, 50 steps of the default rule."""
    method = LayerIntegratedGradients(texts.forward, texts.model.bert.embeddings)
    nothing = torch.zeros_like(texts.ids)

    def work(rows: int) -> object:
        return method.attribute(texts.ids, nothing, texts.target, n_steps=50, internal_batch_size=rows)

    rows, _ = meter.fastest(work, texts.rows(50))
    return meter.measure(partial(work, rows)) | {"rows": rows}


METHODS: dict[str, Callable[[Texts, Meter], dict[str, Any]]] = {
    f"ours, tolerance {TOLERANCE}": ours,
    "injected attention, 64 steps": injected,
    "token-level IG, 50 steps": token_level,
}
