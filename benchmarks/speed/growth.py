"""Growth of the time with layers, tokens and batch, one at a time, at half of BERT-base's width."""

from __future__ import annotations

import statistics

from benchmarks.setup.results import Store
from benchmarks.setup.sized_models import random_bert, sentences
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers


def growth(repeats: int, store: Store) -> dict[str, list[tuple[int, float]]]:
    """Seconds to tolerance 0.01."""

    def run(layers: int, tokens: int, batch: int) -> float:
        return float(store.get(f"growth {layers} {tokens} {batch}", once, layers, tokens, batch, repeats))

    return {
        "layers": [(n, run(n, 64, 1)) for n in (2, 4, 6, 8, 12)],
        "tokens": [(n, run(6, n, 1)) for n in (32, 64, 128, 256, 512, 1024)],
        "batch": [(n, run(6, 64, n)) for n in (1, 2, 4, 8, 16, 32)],
    }


def once(layers: int, tokens: int, batch: int, repeats: int) -> float:
    model = random_bert(layers, 384, 12, max_position_embeddings=2048)
    method = SelfAttentionAttribution(lambda i: model(i).logits, attention_layers(model))
    ids = sentences(None, tokens, batch)
    method.attribute(ids, target=1, tolerance=0.01)
    return statistics.median(timed(method.attribute, ids, target=1, tolerance=0.01)[0] for _ in range(repeats))
