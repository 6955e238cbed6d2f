"""The same work by both sides, and bounds of what it takes."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.setup.attributing import relative_errors
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.sized_models import build, sentences
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers

STEPS = ROWS = 20


def same_work(depth: int | None, repeats: int) -> dict[str, Any]:
    model, _ = build("BERT-base size", depth)
    ids = sentences(None, 128, 1)
    method = SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), attention_layers(model))
    unit = forward_per_row(model, ids)
    pairs = []
    for _ in tqdm(range(repeats), desc="the same work, in turn", unit="pair"):
        ours, attributions = timed(method.attribute, ids, target=1, n_steps=STEPS)
        hand, theirs = timed(by_hand, model, ids, STEPS, "gausslegendre", ROWS)
        pairs.append((ours, hand))
    ours, hand = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return {
        "forward_per_row_seconds": unit,
        "ours_seconds": ours,
        "by_hand_seconds": hand,
        "speedups": [pair[1] / pair[0] for pair in pairs],
        "speedup": statistics.median(pair[1] / pair[0] for pair in pairs),
        **bounds(len(attributions)),
        "ours_forwards_a_step": ours / STEPS / unit,
        "by_hand_forwards_a_step": hand / STEPS / unit,
        "relative_difference": float(relative_errors(attributions, theirs).max()),
    }


def forward_per_row(model: Any, ids: Tensor) -> float:
    """Seconds of a forward pass for one row, in the best of three batch sizes."""
    times = []
    with torch.no_grad():
        for rows in (5, 10, 20):
            batch = ids[:1].expand(rows, -1)
            model(batch)
            times.append(statistics.median(timed(model, batch)[0] for _ in range(5)) / rows)
    return min(times)


def bounds(layers: int) -> dict[str, float]:
    """Forward passes a step, if a backward pass costs what a forward pass does."""
    above = [layers - layer - 0.25 for layer in range(layers)]
    return {
        "bound_forwards_a_step": 2 * sum(above) / layers,
        # Of a BERT block's 12 d^2 weights, only key and value (2 d^2) are applied to every row of the topmost one.
        "bound_with_rows_that_are_read": 2 * sum(max(some - 10 / 12, 0) for some in above) / layers,
        "by_hand_bound_forwards_a_step": sum(1 + some / layers for some in above),
    }
