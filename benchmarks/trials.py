"""Ways to be faster that were tried: what each gives and what it costs, and where the time goes.

    python -m benchmarks.trials

At BERT-base size (random weights, 20 Gauss-Legendre steps, every fourth layer): chunk sizes (``internal_batch_size``),
``torch.autocast`` to bfloat16, ``torch.compile`` of the feed-forward parts, and how much less a row costs in larger
batches, which is the most that replaying several layers in one batch could give. What bfloat16 does to the figures is
measured on the bundled model and reviews. Where the time goes is what torch's profiler counts.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.setup.attributing import predicted, relative_errors
from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment, line
from benchmarks.setup.rank_correlation import rank_correlation
from benchmarks.setup.results import Store, table
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from benchmarks.setup.timing import medians, timed, turns
from captum_attattr import SelfAttentionAttribution, attention_layers, head_scores
from captum_attattr.demo import load_reviews
from captum_attattr.text.classifier import Classifier

SIZE = "BERT-base size"
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


def method_of(model: Any) -> SelfAttentionAttribution[list[Tensor]]:
    return SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), attention_layers(model)[::EVERY])


def seconds(work: Callable[[], object], repeats: int) -> float:
    return medians(turns({"it": work}, repeats))["it"]


def chunk_sizes(model: Any, tokens: int, batch: int, repeats: int) -> dict[str, float]:
    attribute = partial(method_of(model).attribute, sentences(None, tokens, batch), target=1, n_steps=STEPS)
    works = {str(chunk): partial(attribute, internal_batch_size=chunk) for chunk in CHUNKS[tokens, batch]}
    return medians(turns(works, repeats))


def half_precision(model: Any, tokens: int, repeats: int) -> dict[str, float]:
    method, ids = method_of(model), sentences(None, tokens, 1)

    def work(cast: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16) if cast else contextlib.nullcontext():
            method.attribute(ids, target=1, n_steps=STEPS)

    return medians(turns({"float32": partial(work, False), "bfloat16": partial(work, True)}, repeats))


def half_precision_error(limit: int | None) -> dict[str, float]:
    """On the bundled model and reviews: relative errors of layers' attributions, rank correlation of head scores."""
    classifier = Classifier(None, None, "probability")
    method = SelfAttentionAttribution(classifier.outputs, attention_layers(classifier.model))
    errors: list[float] = []
    exact_heads: list[Tensor] = []
    cast_heads: list[Tensor] = []
    for batch in classifier.batches([text for text, _ in load_reviews()][:limit], None, 12):
        ids, *rest = batch.inputs
        options: dict[str, Any] = {"target": predicted(classifier, batch), "additional_forward_args": tuple(rest)}
        exact = method.attribute(ids, n_steps=STEPS, **options)
        with torch.autocast("cpu", torch.bfloat16):
            cast = method.attribute(ids, n_steps=STEPS, **options)
        errors += relative_errors(cast, exact).flatten().tolist()
        exact_heads.append(torch.stack([head_scores(attribution) for attribution in exact]).double())
        cast_heads.append(torch.stack([head_scores(attribution.float()) for attribution in cast]).double())
    exact_mean, cast_mean = (torch.cat(some, 1).mean(1) for some in (exact_heads, cast_heads))
    return {
        "median error": statistics.median(errors),
        "worst error": max(errors),
        "rank correlation of heads": rank_correlation(exact_mean, cast_mean),
    }


def compiled(tokens: int, repeats: int) -> dict[str, float]:
    plain, _ = build(SIZE)
    fast, _ = build(SIZE)
    for block in fast.bert.encoder.layer:
        block.intermediate.compile(dynamic=True)
        block.output.compile(dynamic=True)
    ids = sentences(None, tokens, 1)
    works = {
        name: partial(method_of(model).attribute, ids, target=1, n_steps=STEPS)
        for name, model in (("as it is", plain), ("compiled", fast))
    }
    first, there = timed(works["compiled"])
    error = float(relative_errors(there, works["as it is"]()).max())
    return medians(turns(works, repeats)) | {"first call": first, "largest relative difference": error}


def cost_of_rows(size: str, tokens: int, repeats: int) -> dict[str, float]:
    """Milliseconds a row of a forward and backward pass, by rows in the batch."""
    model, tokenizer = build(size)
    inner = model.get_input_embeddings()(sentences(tokenizer, tokens, 1)).detach()

    def work(rows: int) -> None:
        model(inputs_embeds=inner.expand(rows, -1, -1).clone().requires_grad_()).logits[:, 1].sum().backward()

    return {str(rows): 1000 * seconds(partial(work, rows), 3 * repeats) / rows for rows in ROWS}


def where_the_time_goes(model: Any, tokens: int) -> dict[str, Any]:
    ids = sentences(None, tokens, 1)
    attribute = partial(method_of(model).attribute, ids, target=1, n_steps=STEPS)
    with torch.no_grad():
        unit = seconds(partial(model, ids.expand(10, -1)), 3) / 10
    whole = seconds(attribute, 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        attribute()
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((k for k, marks in KINDS.items() if any(mark in name for mark in marks)), "the rest")
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {
        "seconds": whole, "forward passes a step": whole / STEPS / unit,
        "shares": {kind: time / total for kind, time in spent.items()},
    }  # fmt: skip


def measure(args: argparse.Namespace, store: Store) -> dict[str, Any]:
    model, _ = build(SIZE)
    works: dict[str, Callable[[], object]] = {
        "chunks, 128 tokens": partial(chunk_sizes, model, 128, 1, args.repeats),
        "chunks, 32 tokens, batch 4": partial(chunk_sizes, model, 32, 4, args.repeats),
        "bfloat16": partial(half_precision, model, 128, args.repeats),
        "bfloat16, error": partial(half_precision_error, args.limit),
        "compile": partial(compiled, 128, args.repeats),
        "rows, bundled, 32 tokens": partial(cost_of_rows, BUNDLED, 32, args.repeats),
        f"rows, {SIZE}, 32 tokens": partial(cost_of_rows, SIZE, 32, args.repeats),
        f"rows, {SIZE}, 128 tokens": partial(cost_of_rows, SIZE, 128, args.repeats),
        "profile": partial(where_the_time_goes, model, 128),
    }
    return {name: store.get(name, work) for name, work in tqdm(works.items(), desc="trials")}


def markdown(figures: dict[str, Any]) -> str:
    found = figures["found"]
    half, loss, comp, prof = (found[name] for name in ("bfloat16", "bfloat16, error", "compile", "profile"))
    chunks = [
        [name.removeprefix("chunks, "), ", ".join(f"{chunk}: {time:.2f} s" for chunk, time in times.items())]
        for name, times in found.items()
        if name.startswith("chunks")
    ]
    rows = [
        [name.removeprefix("rows, "), *(f"{times[str(r)]:.2f}" for r in ROWS)]
        for name, times in found.items()
        if name.startswith("rows")
    ]
    shares = [[kind, f"{part:.0%}"] for kind, part in prof["shares"].items()]
    return f"""# Trials

Ways to be faster, at BERT-base size (random weights), every fourth layer, {STEPS} Gauss-Legendre steps, one
sentence of 128 tokens where not said otherwise. Made by `python -m benchmarks.trials`; {line(figures["environment"])}.

## Where the time goes

{prof["seconds"]:.1f} s, {prof["forward passes a step"]:.1f} forward passes (per row of a batch) a step, for three
layers. By torch's profiler:

{table(["", ""], shares)}

## Chunk size

Seconds by `internal_batch_size`; None is what the engine picks.

{table(["", ""], chunks)}

## bfloat16 by autocast

{half["float32"]:.2f} s in float32, {half["bfloat16"]:.2f} s under `torch.autocast("cpu", torch.bfloat16)`:
**{half["float32"] / half["bfloat16"]:.2f} times as fast**. On the bundled model and its reviews the error of a layer's
attributions against float32 is {loss["median error"]:.1%} (median) and {loss["worst error"]:.1%} (worst), and the rank
correlation of the mean head scores {loss["rank correlation of heads"]:.4f}. So it is left to whoever asks for it.

## torch.compile of the feed-forward parts

{comp["as it is"]:.2f} s as it is, {comp["compiled"]:.2f} s compiled:
**{comp["as it is"] / comp["compiled"]:.2f} times as fast** once compiled; the first call took
{comp["first call"]:.0f} s. Largest relative difference {comp["largest relative difference"]:.0e}. It needs nothing of
ours: call `block.intermediate.compile()` and `block.output.compile()` before attributing.

## Several layers in one batch

Milliseconds a row of a forward and backward pass, by rows in the batch. Tolerance 0.01 starts with 3 rows a sentence
and layer; what larger batches save is the most that putting layers together can give. It is what
`captum_attattr/engine/growing_batches.py` does, without computing rows of upper layers in the lower ones.

{table(["", *map(str, ROWS)], rows)}

On a GPU: [gpu](gpu.md).
"""


def main() -> None:
    parser = command_line("trials", __doc__, threads=2)
    parser.add_argument("--limit", type=int, help="only so many reviews for the error of bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    args = parsed(parser)
    settings = settings_of(args)
    store = Store(args.output / "trials.jsonl", settings)
    figures = {"settings": settings, "environment": environment(), "found": measure(args, store)}
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
