"""Savings of pruned heads: parameters, bytes on disk and time, against the same heads masked and the full model.

    python benchmarks/pruned_speed.py

For the bundled model and for one of BERT-base size (random weights: its speed does not depend on what it was trained
on), 25, 50 and 75% of all heads are drawn at random, the same ones masked in one copy and cut out of another. Time is
that of a forward pass over a batch, without gradients, the three models in turn in one process; ratios are medians of
the ratios of single turns. Both outputs are compared: pruning changes no number beyond rounding.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from machine import environment
from speed import RESULTS
from torch import Tensor
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from captum_attattr.attention import mask_heads, remaining_heads
from captum_attattr.demo import load_demo
from captum_attattr.pruning import prune_heads, save_pruned


def base() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig()).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"bundled": lambda: load_demo()[0], "base": base}


def drawn(model: PreTrainedModel, share: float, seed: int) -> list[tuple[int, int]]:
    """A share of all heads, rounded, at random."""
    heads = [(layer, head) for layer, numbers in enumerate(remaining_heads(model)) for head in numbers]
    return random.Random(seed).sample(heads, round(share * len(heads)))


def file_bytes(model: PreTrainedModel) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(model, folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


@torch.no_grad()
def turns(models: Mapping[str, Callable[[], Any]], repeats: int, what: str) -> list[dict[str, float]]:
    """Seconds of each model's pass, all of them once a turn, after a turn that does not count."""
    times = []
    for _ in tqdm(range(repeats + 1), desc=what, unit="turn"):
        turn = {}
        for name, work in models.items():
            start = time.perf_counter()
            work()
            turn[name] = time.perf_counter() - start
        times.append(turn)
    return times[1:]


def measure(name: str, share: float, ids: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    full = MODELS[name]()
    heads = drawn(full, share, args.seed)
    masked, pruned = copy.deepcopy(full), prune_heads(copy.deepcopy(full), heads)
    models = {"full": full, "masked": masked, "pruned": pruned}
    with mask_heads(masked, heads):
        times = turns({kind: lambda m=m: m(ids) for kind, m in models.items()}, args.repeats, f"{name}, {share:.0%}")
        with torch.no_grad():
            one, other = masked(ids).logits, pruned(ids).logits
    return {
        "model": name,
        "share": share,
        "heads": len(heads),
        "of_heads": sum(map(len, remaining_heads(full))),
        "layers_without_heads": sum(not numbers for numbers in remaining_heads(pruned)),
        "parameters": {kind: m.num_parameters() for kind, m in models.items()},
        "bytes": {kind: file_bytes(m) for kind, m in (("full", full), ("pruned", pruned))},
        "seconds": {kind: statistics.median(turn[kind] for turn in times) for kind in models},
        "faster_than": {
            kind: statistics.median(turn[kind] / turn["pruned"] for turn in times) for kind in ("full", "masked")
        },
        "turns": times,
        "relative_difference": float((one - other).norm() / one.norm()),
    }


def table(figures: dict[str, Any]) -> str:
    s = figures["settings"]
    rows = "\n".join(
        f"| {r['model']} | {r['share']:.0%} | {r['heads']} of {r['of_heads']} "
        f"| {r['parameters']['pruned'] / 1e6:.2f} of {r['parameters']['full'] / 1e6:.2f} "
        f"| {r['bytes']['pruned'] / 2**20:.1f} of {r['bytes']['full'] / 2**20:.1f} "
        f"| {r['seconds']['full']:.4f} | {r['seconds']['masked']:.4f} | {r['seconds']['pruned']:.4f} "
        f"| {r['faster_than']['full']:.2f} | {r['faster_than']['masked']:.2f} | {r['relative_difference']:.0e} |"
        for r in figures["rows"]
    )
    return f"""# Pruned models: size and speed

A forward pass over a batch of {s["batch"]}, {s["tokens"]} tokens each, float32, {s["threads"]} threads, no gradients;
medians of {s["repeats"]} turns, the three models in turn in one process. Heads drawn at random from all layers, the
same ones masked and cut out. "bundled" is the model of `captum_attattr.demo` (6 layers, 12 heads, width 384), "base"
one of BERT-base size (12 layers, 12 heads, width 768). Made by `python benchmarks/pruned_speed.py`.

| model | cut | heads | million parameters | MiB | full, s | masked, s | pruned, s | full / p. | masked / p. | error |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

MiB is the size of the weights' file; the ratios are of times, to that of the pruned model; the error is the relative
difference between the outputs of the masked and the pruned model. What pruning can save is bounded by what attention
takes: the feed-forward layers and the embeddings keep their size.

Environment: {", ".join(f"{k} {v}" for k, v in figures["environment"].items())}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ids = torch.randint(1000, 9000, (args.batch, args.tokens))
    figures = {
        "settings": {k: v for k, v in vars(args).items() if k != "output"},
        "rows": [measure(name, share, ids, args) for name in args.models for share in args.shares],
        "environment": environment(),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "pruned_speed.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.output / "pruned_speed.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
