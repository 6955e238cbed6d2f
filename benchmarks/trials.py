"""Ways to be faster that were tried: what each gives and what it costs, and where the time goes.

    python benchmarks/trials.py

At BERT-base size (random weights, 20 Gauss-Legendre steps, every fourth layer): chunk sizes (``internal_batch_size``),
``torch.autocast`` to bfloat16, ``torch.compile`` of the feed-forward parts, and how much less a row costs in larger
batches, which is the most that replaying several layers in one batch could give. What bfloat16 does to the figures is
measured on the bundled model and reviews. Where the time goes is what torch's profiler counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import environment, line
from speed import build, sentences, timed
from store import Store
from torch import nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from captum_attattr import SelfAttentionAttribution, attention_layers, head_scores
from captum_attattr.classifier import Classifier
from captum_attattr.demo import load_reviews

RESULTS = Path(__file__).parent / "results"
STEPS = 20
EVERY = 4
CHUNKS = {(128, 1): (1, 5, 10, 20, None), (32, 4): (4, 10, 20, 40, 80, None)}
"""By tokens and batch."""
ROWS = (1, 3, 6, 12, 24)
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    "attention of the layers above": ("scaled_dot_product", "flash", "softmax"),
    "GELU, layer norms, sums": ("gelu", "layer_norm", "add", "mul", "sub", "div", "tanh", "sum"),
    "copies": ("copy_", "cat", "index", "clone", "fill_", "zero_", "expand", "select", "slice", "contiguous"),
}


def method_of(model: nn.Module) -> SelfAttentionAttribution:
    return SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), attention_layers(model)[::EVERY])


def seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    return statistics.median(timed(work)[0] for _ in range(repeats))


def in_turn(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turn, so that what slows the machine slows all of them."""
    for work in works.values():
        work()
    runs = [{name: timed(work)[0] for name, work in works.items()} for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in works}


def chunk_sizes(model: nn.Module, tokens: int, batch: int, repeats: int) -> dict[str, float]:
    method, ids = method_of(model), sentences(None, tokens, batch)
    return in_turn(
        {
            str(chunk): lambda c=chunk: method.attribute(ids, target=1, n_steps=STEPS, internal_batch_size=c)
            for chunk in CHUNKS[tokens, batch]
        },
        repeats,
    )


def half_precision(model: nn.Module, tokens: int, repeats: int) -> dict[str, Any]:
    method, ids = method_of(model), sentences(None, tokens, 1)

    def work(cast: bool) -> Any:
        with torch.autocast("cpu", torch.bfloat16) if cast else contextlib.nullcontext():
            return method.attribute(ids, target=1, n_steps=STEPS)

    return in_turn({"float32": lambda: work(False), "bfloat16": lambda: work(True)}, repeats)


def half_precision_error(limit: int | None) -> dict[str, float]:
    """On the bundled model and reviews: relative errors of layers' shares, rank correlation of head scores."""
    classifier = Classifier(None, None, "probability")
    method = SelfAttentionAttribution(classifier.outputs, attention_layers(classifier.model))
    errors, exact_heads, cast_heads = [], [], []
    for batch in classifier.batches([text for text, _ in load_reviews()][:limit], None, 12):
        ids, *rest = batch.inputs
        options = {
            "target": classifier.predict(batch)[0].argmax(-1).tolist(),
            "additional_forward_args": tuple(rest), "n_steps": STEPS,
        }  # fmt: skip
        exact = method.attribute(ids, **options)
        with torch.autocast("cpu", torch.bfloat16):
            cast = method.attribute(ids, **options)
        errors += [
            float(e) for one, other in zip(cast, exact, strict=True)
            for e in (one.float() - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)
        ]  # fmt: skip
        exact_heads.append(torch.stack([head_scores(share) for share in exact]).double())
        cast_heads.append(torch.stack([head_scores(share.float()) for share in cast]).double())
    ranks = [torch.cat(some, 1).mean(1).flatten().argsort().argsort().double() for some in (exact_heads, cast_heads)]
    return {
        "median error": statistics.median(errors),
        "worst error": max(errors),
        "rank correlation of heads": float(torch.corrcoef(torch.stack(ranks))[0, 1]),
    }


def compiled(size: str, tokens: int, repeats: int) -> dict[str, Any]:
    plain, _ = build(size)
    fast, _ = build(size)
    for block in fast.bert.encoder.layer:
        block.intermediate.compile(dynamic=True)
        block.output.compile(dynamic=True)
    ids = sentences(None, tokens, 1)
    methods = {"as it is": method_of(plain), "compiled": method_of(fast)}

    def work(name: str) -> Any:
        return methods[name].attribute(ids, target=1, n_steps=STEPS)

    first, there = timed(lambda: work("compiled"))
    exact = work("as it is")
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(there, exact, strict=True))
    found = in_turn({name: lambda n=name: work(n) for name in methods}, repeats)
    return found | {"first call": first, "largest relative difference": error}


def cost_of_rows(size: str, tokens: int, repeats: int) -> dict[str, float]:
    """Milliseconds a row of a forward and backward pass, by rows in the batch. Tolerance 0.01 starts with 3 rows a sentence
    and layer; what larger batches save is the most that putting layers together could give. Not built: it would serve
    single short sentences alone, and rows of the upper layers would be computed in the lower ones for nothing.

    | | {" | ".join(str(r) for r in ROWS)} |
    |{" --- |" * (len(ROWS) + 1)}
    {rows}

    On a GPU: not measured.
    """


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only so many reviews for the error of bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name != "output"}
    store = Store(args.output / "trials.jsonl", settings)
    figures = {"settings": settings, "environment": environment(), "found": measure(args, store)}
    (args.output / "trials.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "trials.md").write_text(table(figures))
    store.file.unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
