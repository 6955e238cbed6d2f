"""Time of self-attention attribution of every layer, against the methods that a Captum user would pick instead.

    python benchmarks/speed.py

Three parts, each with both sides in one run and in turn:

* The same work: 20 Gauss-Legendre steps at BERT-base size, 128 tokens. Ours against ``IntegratedGradients`` over
  injected attention, layer by layer. The unit is a forward pass of the model, per row of a batch as large as the ones
  that the method runs. The bound is what replays need if a backward pass costs what a forward pass does:
  2 sum_l (L - l - 1/4) / L forward passes a step. It counts every row of the topmost block.
* The same answer: ours to ``tolerance=0.01`` against injected attention with 64 left Riemann steps (the setting of the
  authors' code) and 20 (the paper's), and against ``LayerIntegratedGradients`` on the embeddings with its 50 steps,
  which gives one score a token. Three sizes of model, three lengths, two batch sizes.
* Growth: time against layers, tokens and batch.

The bundled model is trained; BERT-base and BERT-large sizes have random weights, which need the first rule of
evaluations only (the evaluations used are in the table). Where the whole work would take minutes, first and last layer
are timed, and for Captum's methods one batch of steps as large as they are given, and the rest is filled in between,
since time is a straight line in both: these cells say "~".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from by_hand import by_hand
from captum.attr import LayerIntegratedGradients
from machine import environment
from speed_report import table
from store import Store
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.demo import load_demo, load_reviews

RESULTS = Path(__file__).parent / "results"
# Of a batch of Captum's methods: larger ones are no faster on a CPU, and take many gigabytes.
MOST_TOKENS = {"bundled": 8192, "BERT-base size": 8192, "BERT-large size": 4096}
SIZES = {"bundled": None, "BERT-base size": (12, 768, 12), "BERT-large size": (24, 1024, 16)}


def build(size: str, layers: int | None = None) -> tuple[nn.Module, Any]:
    if SIZES[size] is None:
        model, tokenizer = load_demo()
        return model, tokenizer
    torch.manual_seed(0)
    depth, width, heads = SIZES[size]
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers or depth, num_attention_heads=heads, intermediate_size=4 * width
    )
    return BertForSequenceClassification(config).eval(), None


def sentences(tokenizer: Any, tokens: int, batch: int) -> Tensor:
    """Reviews strung together up to the length; random numbers for models without a tokenizer."""
    if tokenizer is None:
        return torch.randint(1000, 30000, (batch, tokens), generator=torch.Generator().manual_seed(0))
    reviews = [text for text, _ in load_reviews()]
    rows = []
    for row in range(batch):
        text = " ".join((reviews[row % len(reviews) :] + reviews) * 2)
        rows.append(tokenizer(text, truncation=True, max_length=tokens, return_tensors="pt")["input_ids"])
    return torch.cat(rows)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def forward_per_row(model: nn.Module, ids: Tensor) -> float:
    """Seconds of a forward pass for one row, in the best of three batch sizes."""
    times = []
    with torch.no_grad():
        for rows in (5, 10, 20):
            model(ids[:1].expand(rows, -1))
            runs = [timed(lambda rows=rows: model(ids[:1].expand(rows, -1)))[0] for _ in range(5)]
            times.append(statistics.median(runs) / rows)
    return min(times)


def same_work(args: argparse.Namespace) -> dict[str, Any]:
    model, _ = build("BERT-base size", args.layers)
    ids = sentences(None, 128, 1)
    method = SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), attention_layers(model))
    steps, rows = 20, 20
    unit = forward_per_row(model, ids)
    pairs = []
    for _ in tqdm(range(args.repeats), desc="the same work, in turn", unit="pair"):
        ours, attributions = timed(lambda: method.attribute(ids, target=1, n_steps=steps))
        hand, theirs = timed(lambda: by_hand(model, ids, steps, "gausslegendre", rows))
        pairs.append((ours, hand))
    layers = len(attributions)
    bound = 2 * sum(layers - layer - 0.25 for layer in range(layers)) / layers
    # Of a BERT block's 12 d^2 weights, only key and value (2 d^2) are applied to every row of the topmost one.
    narrow = 2 * sum(max(layers - layer - 0.25 - 10 / 12, 0) for layer in range(layers)) / layers
    hand_bound = sum(1 + (layers - layer - 0.25) / layers for layer in range(layers))
    ours, hand = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return {
        "forward_per_row_seconds": unit,
        "ours_seconds": ours,
        "by_hand_seconds": hand,
        "speedups": [pair[1] / pair[0] for pair in pairs],
        "speedup": statistics.median(pair[1] / pair[0] for pair in pairs),
        "bound_forwards_a_step": bound,
        "bound_with_rows_that_are_read": narrow,
        "by_hand_bound_forwards_a_step": hand_bound,
        "ours_forwards_a_step": ours / steps / unit,
        "by_hand_forwards_a_step": hand / steps / unit,
        "relative_difference": max(float((a - b).norm() / b.norm()) for a, b in zip(attributions, theirs, strict=True)),
    }


def cell(size: str, tokens: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model, length and batch: seconds of each method for the whole batch."""
    model, tokenizer = build(size, args.layers)
    ids = sentences(tokenizer, tokens, batch)
    layers = attention_layers(model)
    found: dict[str, Any] = {"size": size, "tokens": ids.shape[1], "batch": batch}
    if f"{size}, {tokens}, {batch}" in args.skip:
        return found
    with torch.no_grad():
        once, _ = timed(lambda: model(ids[:1]))
        if once * batch > args.most:
            return found
        target = model(ids).logits.argmax(-1).tolist()
    whole = once * batch * len(layers) * 20 < args.patience

    def forward(i: Tensor) -> Tensor:
        return model(i).logits.softmax(-1)

    found["estimated"] = not whole
    timed_layers = layers if whole else [layers[0], layers[-1]]
    method = SelfAttentionAttribution(forward, timed_layers)
    method.attribute(ids[:1], target=target[0], tolerance=0.01)
    ours = [timed(lambda: method.attribute(ids, target=target, tolerance=0.01)) for _ in range(3 if whole else 1)]
    seconds, attributions = statistics.median(run[0] for run in ours), ours[0][1]
    if not whole:
        shared, _ = timed(lambda: (forward(ids).sum().backward(), model.zero_grad()))
        seconds = (seconds - shared) * len(layers) / 2 + shared
    found["ours_seconds"] = seconds
    found["evaluations"] = float(method.convergence.evaluations.double().mean())
    for steps in (64, 20):
        few = steps if whole else one_batch(size, steps, batch, tokens)
        rows = max(batch, min(few * batch, MOST_TOKENS[size] // tokens))
        spent, theirs = timed(lambda few=few, rows=rows: by_hand(
            model, ids, few, "riemann_left", rows, target, timed_layers))  # fmt: skip
        found[f"by_hand_{steps}_seconds"] = spent * (1 if whole else steps / few * len(layers) / 2)
        if whole and tokenizer is not None and batch == 1:
            exact = found.setdefault("exact", method.attribute(ids, target=target, n_steps=64))
            found[f"by_hand_{steps}_error"] = worst_error(theirs, exact)
            found["ours_error"] = worst_error(attributions, exact)
    found.pop("exact", None)
    found["tokens_only_seconds"] = token_level(size, model, forward, ids, target, whole)
    return found


def one_batch(size: str, steps: int, batch: int, tokens: int) -> int:
    """How many steps fill a batch as large as Captum's methods are given here."""
    return min(steps, max(2, MOST_TOKENS[size] // tokens // batch))


def token_level(size: str, model: nn.Module, forward: Any, ids: Tensor, target: Any, whole: bool) -> float:
    """LayerIntegratedGradients on the embeddings, its default 50 steps of its default rule."""
    steps = 50 if whole else one_batch(size, 50, *ids.shape)
    method = LayerIntegratedGradients(forward, model.bert.embeddings)
    rows = max(len(ids), min(steps * len(ids), MOST_TOKENS[size] // ids.shape[1]))
    blank = torch.zeros_like(ids)
    spent, _ = timed(lambda: method.attribute(
        ids, baselines=blank, target=target, n_steps=steps, internal_batch_size=rows))  # fmt: skip
    return spent * 50 / steps


def worst_error(ours: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True))


def growth(args: argparse.Namespace, store: Store) -> dict[str, list[tuple[int, float]]]:
    """Seconds to tolerance 0.01 against one thing at a time, at a third of BERT-base's width."""

    def run(layers: int, tokens: int, batch: int) -> float:
        return float(store.get(f"growth {layers} {tokens} {batch}", lambda: once(layers, tokens, batch)))

    def once(layers: int, tokens: int, batch: int) -> float:
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536,
            max_position_embeddings=2048,
        )  # fmt: skip
        model = BertForSequenceClassification(config).eval()
        method = SelfAttentionAttribution(lambda i: model(i).logits, attention_layers(model))
        ids = sentences(None, tokens, batch)
        method.attribute(ids, target=1, tolerance=0.01)
        return statistics.median(
            timed(lambda: method.attribute(ids, target=1, tolerance=0.01))[0] for _ in range(args.repeats)
        )

    return {
        "layers": [(n, run(n, 64, 1)) for n in (2, 4, 6, 8, 12)],
        "tokens": [(n, run(6, n, 1)) for n in (32, 64, 128, 256, 512, 1024)],
        "batch": [(n, run(6, 64, n)) for n in (1, 2, 4, 8, 16, 32)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--layers", type=int, help="another depth for the sizes with random weights (a quick look)")
    parser.add_argument(
        "--patience", type=float, default=8, help="seconds of 20 forward passes a layer, in cells that are timed whole"
    )
    parser.add_argument(
        "--most", type=float, default=5, help="seconds of a forward pass of the batch, in cells that are measured"
    )
    parser.add_argument(
        "--skip", nargs="*", default=[], metavar="CELL", help='cells to leave out: "SIZE, TOKENS, BATCH"'
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "skip")}
    store = Store(args.output / "speed.jsonl", settings)
    grid = [(size, tokens, batch) for size in args.sizes for tokens in args.tokens for batch in args.batch]
    figures = {
        "settings": settings,
        "environment": environment(),
        "same_work": store.get("same work", lambda: same_work(args)),
        "cells": [
            store.get(f"cell {size}, {tokens}, {batch}", lambda s=size, t=tokens, b=batch: cell(s, t, b, args))
            for size, tokens, batch in tqdm(grid, desc="the same answer", unit="cell")
        ],
        "growth": growth(args, store),
    }
    (args.output / "speed.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.output / "speed.md").write_text(table(figures))
    store.file.unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
