"""Savings of pruned heads: parameters, bytes on disk and time, against the same heads masked and the full model.

    python -m benchmarks.pruned_speed

For the bundled model and for one of BERT-base size (random weights: its speed does not depend on what it was trained
on), 25, 50 and 75% of all heads are drawn at random, the same ones masked in one copy and cut out of another. Time is
that of a forward pass over a batch, without gradients, the three models in turn in one process; ratios are medians of
the ratios of single turns. Both outputs are compared: pruning changes no number beyond rounding.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment, line
from benchmarks.setup.results import publish, table
from benchmarks.setup.sized_models import BUNDLED, build
from benchmarks.setup.timing import medians, turns
from captum_attattr.attention import mask_heads, remaining_heads
from captum_attattr.pruning import prune_heads, save_pruned

SIZES = {"bundled": BUNDLED, "base": "BERT-base size"}


def drawn(model: PreTrainedModel, share: float, seed: int) -> list[tuple[int, int]]:
    """A share of all heads, rounded, at random."""
    heads = [(layer, head) for layer, numbers in enumerate(remaining_heads(model)) for head in numbers]
    return random.Random(seed).sample(heads, round(share * len(heads)))


def file_bytes(model: PreTrainedModel) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(model, folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def measure(name: str, share: float, ids: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    full, _ = build(SIZES[name])
    heads = drawn(full, share, args.seed)
    masked, pruned = copy.deepcopy(full), prune_heads(copy.deepcopy(full), heads)
    models = {"full": full, "masked": masked, "pruned": pruned}
    with mask_heads(masked, heads), torch.no_grad():
        times = turns({kind: partial(model, ids) for kind, model in models.items()}, args.repeats)
        one, other = masked(ids).logits, pruned(ids).logits
    return {
        "model": name,
        "share": share,
        "heads": len(heads),
        "of_heads": sum(map(len, remaining_heads(full))),
        "layers_without_heads": sum(not numbers for numbers in remaining_heads(pruned)),
        "parameters": {kind: m.num_parameters() for kind, m in models.items()},
        "bytes": {kind: file_bytes(m) for kind, m in (("full", full), ("pruned", pruned))},
        "seconds": medians(times),
        "faster_than": {
            kind: statistics.median(turn[kind] / turn["pruned"] for turn in times) for kind in ("full", "masked")
        },
        "turns": times,
        "relative_difference": float((one - other).norm() / one.norm()),
    }


def row(r: dict[str, Any]) -> list[str]:
    parameters, size, seconds = r["parameters"], r["bytes"], r["seconds"]
    return [
        r["model"], f"{r['share']:.0%}", f"{r['heads']} of {r['of_heads']}",
        f"{parameters['pruned'] / 1e6:.2f} of {parameters['full'] / 1e6:.2f}",
        f"{size['pruned'] / 2**20:.1f} of {size['full'] / 2**20:.1f}",
        *(f"{seconds[kind]:.4f}" for kind in ("full", "masked", "pruned")),
        *(f"{r['faster_than'][kind]:.2f}" for kind in ("full", "masked")), f"{r['relative_difference']:.0e}",
    ]  # fmt: skip


def markdown(figures: dict[str, Any]) -> str:
    s = figures["settings"]
    head = ["model", "cut", "heads", "million parameters", "MiB", "full, s", "masked, s", "pruned, s", "full / p.",
            "masked / p.", "error"]  # fmt: skip
    return f"""# Pruned models: size and speed

A forward pass over a batch of {s["batch"]}, {s["tokens"]} tokens each, float32, {s["threads"]} threads, no gradients;
medians of {s["repeats"]} turns, the three models in turn in one process. Heads drawn at random from all layers, the
same ones masked and cut out. "bundled" is the model of `captum_attattr.demo` (6 layers, 12 heads, width 384), "base"
one of BERT-base size (12 layers, 12 heads, width 768). Made by `python -m benchmarks.pruned_speed`.

{table(head, [row(r) for r in figures["rows"]])}

MiB is the size of the weights' file; the ratios are of times, to that of the pruned model; the error is the relative
difference between the outputs of the masked and the pruned model. What pruning can save is bounded by what attention
takes: the feed-forward layers and the embeddings keep their size.

Environment: {line(figures["environment"])}.
"""


def main() -> None:
    parser = command_line("pruned_speed", __doc__, threads=2)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    args = parsed(parser)
    logging.disable_progress_bar()
    torch.manual_seed(args.seed)
    ids = torch.randint(1000, 9000, (args.batch, args.tokens))
    cases = [(name, share) for name in args.models for share in args.shares]
    figures = {
        "settings": settings_of(args),
        "rows": [measure(name, share, ids, args) for name, share in tqdm(cases, unit="model")],
        "environment": environment(),
    }
    publish(args.output / "pruned_speed", figures, markdown(figures))


if __name__ == "__main__":
    main()
