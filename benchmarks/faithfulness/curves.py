"""Curves of F as tokens and attention edges are removed, for one sentence and every method."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.faithfulness.methods import PAIR_METHODS, heads_of, pair_methods, token_methods, token_removal
from benchmarks.setup.sentences import Sentence
from captum_attattr.faithfulness import (
    FRACTIONS,
    EdgeRemoval,
    HeadRemoval,
    agreement,
    deletion_curve,
    leave_one_out,
    sufficiency,
)
from captum_attattr.faithfulness.curves import Order
from captum_attattr.faithfulness.token_removal import How

HOWS: tuple[How, ...] = ("mask", "delete", "replace")
TOKEN_FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EDGE_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)
LAYER_FRACTIONS = (0.01, 0.05, 0.2, 0.5)
ORDERS: tuple[Order, ...] = ("most", "least")


def measure_tokens(sentence: Sentence, seeds: int) -> dict[str, Any]:
    """For each method: seconds, and for each way of removal the outputs on the curve and the sufficiency."""
    scores: list[torch.Tensor] = []
    found: dict[str, dict[str, Any]] = {}
    for name, method in token_methods(seeds).items():
        result, seconds = sentence.timed(method)
        scores.append(result.double())
        found[name] = {"seconds": seconds}
    together = torch.stack(scores)
    for how in HOWS:
        removal = token_removal(sentence, how, len(together))
        fractions = TOKEN_FRACTIONS if how == "mask" else FRACTIONS
        curves = deletion_curve(removal, together, fractions).outputs
        rest = sufficiency(removal, together, FRACTIONS)
        for entry, curve, sufficient in zip(found.values(), curves, rest, strict=True):
            entry[how] = {"curve": rounded(curve), "sufficiency": rounded(sufficient)}
    return found


def measure_pairs(sentence: Sentence, seeds: int, edges: int, seed: int) -> dict[str, Any]:
    """For each method: seconds, outputs on the curves, and the agreement with single edges and heads."""
    arguments = (sentence.forward, sentence.subject.layers, sentence.ids)
    removal = EdgeRemoval(*arguments, target=sentence.target)
    heads = HeadRemoval(*arguments, target=sentence.target)
    edge_effects, head_effects = leave_one_out(removal, edges, seed=seed), leave_one_out(heads)
    found: dict[str, Any] = {}
    for name, method in pair_methods(seeds).items():
        scores, seconds = sentence.timed(method)
        shaped = [score[None] for score in scores]
        found[name] = {
            "seconds": seconds,
            "edges": float(agreement(removal, shaped, edge_effects)),
            "heads": float(agreement(heads, heads_of(name, scores), head_effects)),
        }
        for order in ORDERS:
            found[name][order] = rounded(deletion_curve(removal, shaped, EDGE_FRACTIONS, order=order).outputs[0])
            if name in PAIR_METHODS or name == "random 0":
                found[name][f"layers {order}"] = [
                    rounded(deletion_curve(removal.within(layer), shaped, LAYER_FRACTIONS, order=order).outputs[0])
                    for layer in range(len(scores))
                ]
    return found


def rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]
