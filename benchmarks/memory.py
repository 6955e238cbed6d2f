"""Peak memory of an attribution above the loaded model, each case in a fresh process.

    python -m benchmarks.memory

* 512 tokens: ours as it comes, for all layers, against ``IntegratedGradients`` over injected attention as it comes (all
  steps of a layer in one batch) and with one row at a time, its least memory. By hand layers go one after the other,
  and the lowest one, whose graph is the largest, is measured alone; its seconds are times the number of layers.
* Long inputs: head and token scores (``reduce=("max", "received")``) of a decoder with grouped heads, small and random,
  from 1,024 to 8,192 tokens, on both paths, without a matrix of a whole layer; beside them one forward and backward
  pass of the model. A first attribution of a short text does not count.

The figure is the peak of the resident set during the work less the resident set before it (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.setup.attributing import summary
from benchmarks.setup.by_hand import by_hand
from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment, resident_mebibytes
from benchmarks.setup.results import Store, table
from benchmarks.setup.sized_models import BUNDLED, build, sentences
from benchmarks.setup.timing import timed
from captum_attattr import SelfAttentionAttribution, attention_layers
from captum_attattr.attribution import PathName
from captum_attattr.engine.path_kinds import path_named

SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "ours, tolerance 0.01": ("ours", {"tolerance": 0.01}),
    "ours, 20 steps": ("ours", {"n_steps": 20}),
    "injected attention, 20 steps": ("by_hand", {"rows": None}),
    "injected attention, 20 steps, one row at a time": ("by_hand", {"rows": 1}),
}
LONG: tuple[PathName, ...] = ("layerwise", "joint")
TOLERANCE = 0.01


LONG_HEAD = (
    "tokens", "a pass: MiB", "seconds", "path", "MiB", "MiB per 1,024 tokens", "seconds", "evaluations a layer",
    "passes an evaluation",
)  # fmt: skip


def measured(threads: int, case: dict[str, Any]) -> dict[str, float]:
    """Run a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--threads", str(threads), "--case", json.dumps(case)]
    root = Path(__file__).parents[1]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if answer.returncode:
        raise SystemExit(f"The case {case} ended with {answer.returncode}:\n{answer.stderr}")
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def run_case(case: dict[str, Any]) -> None:
    work, times = long_work(case["long"], case["how"]) if "long" in case else short_work(case["size"], case["how"])
    before = resident_mebibytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    seconds, evaluations = timed(work)
    found = {"mebibytes": resident_mebibytes("VmHWM") - before, "seconds": seconds * times}
    print(json.dumps(found | ({"evaluations": evaluations} if isinstance(evaluations, float) else {})))


def short_work(size: str, how: str) -> tuple[Callable[[], object], int]:
    """What is measured, and how often it has to be done for all layers."""
    model, tokenizer = build(size)
    ids, layers = sentences(tokenizer, 512, 1), attention_layers(model)
    kind, options = SHORT[how]
    if kind == "by_hand":
        return partial(by_hand, model, ids, 20, "gausslegendre", **options, layers=layers[:1]), len(layers)
    method = SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), layers)
    return partial(method.attribute, ids, target=1, **options), 1


def long_work(tokens: int, how: str) -> tuple[Callable[[], object], int]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=16384,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 1000, (1, tokens))

    def forward(i: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(i, logits_to_keep=1, use_cache=False).logits
        return logits[:, -1]

    if how == "pass":
        return lambda: torch.autograd.backward(forward(ids)[:, 7].sum()), 1
    method = SelfAttentionAttribution(forward, attention_layers(model), path=path_named(how))
    method.attribute(ids[:, :64], target=7, n_steps=2)

    def work() -> float:
        method.attribute(ids, target=7, tolerance=TOLERANCE, reduce=("max", "received"))
        return summary(method)["evaluations"]

    return work, 1


def markdown(figures: dict[str, Any]) -> str:
    short = [
        [
            size, how, f"{found['mebibytes']:.0f}",
            f"{found['mebibytes'] / cases['ours, tolerance 0.01']['mebibytes']:.1f}",
            f"{'~' * how.startswith('injected')}{found['seconds']:.1f}",
        ]
        for size, cases in figures["short"].items() for how, found in cases.items()
    ]  # fmt: skip
    long = [
        [
            tokens, f"{one['mebibytes']:.0f}", f"{one['seconds']:.1f}", path, f"{found[path]['mebibytes']:.0f}",
            f"{found[path]['mebibytes'] / int(tokens) * 1024:.0f}", f"{found[path]['seconds']:.1f}",
            f"{found[path]['evaluations']:.1f}",
            f"{found[path]['seconds'] / found[path]['evaluations'] / one['seconds']:.2f}" if path == "joint" else "",
        ]
        for tokens, found in figures["long"].items() for one in [found["pass"]] for path in LONG
    ]  # fmt: skip
    return f"""# Memory

Peak of the resident set above the loaded model, each case in a fresh process; made by `python -m benchmarks.memory`,
{figures["settings"]["threads"]} threads, float32.

## 512 tokens, one sentence, all layers

By hand the lowest layer, which needs the most, was measured; seconds are those times the number of layers ("~").

{table(["model", "how", "MiB", "times ours", "seconds"], short)}

## Long inputs

Head and token scores of every layer (`reduce=("max", "received")`, tolerance {TOLERANCE}) of a decoder with 4 layers, 8
heads in 2 groups and width 256, random weights, beside one forward and backward pass of the model. On the joint path an
evaluation is a pass of the whole model: its time is given in such passes.

{table(LONG_HEAD, long)}
"""


def main() -> None:
    parser = command_line("memory", __doc__, threads=2)
    parser.add_argument("--sizes", nargs="*", default=[BUNDLED, "BERT-base size"])
    parser.add_argument("--tokens", nargs="*", type=int, default=[1024, 2048, 4096, 8192])
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.case:
        run_case(args.case)
        return
    settings, cases = settings_of(args, "case"), len(args.sizes) * len(SHORT) + len(args.tokens) * (1 + len(LONG))
    store = Store(args.output / "memory.jsonl", settings, cases)

    def found(**case: Any) -> Any:
        return store.get(" ".join(map(str, case.values())), measured, args.threads, case)

    figures = {
        "settings": settings,
        "environment": environment(),
        "short": {size: {how: found(size=size, how=how) for how in SHORT} for size in args.sizes},
        "long": {str(tokens): {how: found(long=tokens, how=how) for how in ("pass", *LONG)} for tokens in args.tokens},
    }
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
