"""Peak memory of an attribution above the loaded model, each case in a fresh process.

    python benchmarks/memory.py

* 512 tokens: ours as it comes, for all layers, against ``IntegratedGradients`` over injected attention as it comes (all
  steps of a layer in one batch) and with one row at a time, its least memory. By hand layers go one after the other,
  and the lowest one, whose graph is the largest, is measured alone; its seconds are times the number of layers.
* Long inputs: head scores (``reduce="max"``) of a decoder with grouped heads, small and random, from 1,024 to 8,192
  tokens, without a matrix of a whole layer; beside it one forward and backward pass of the model.

The figure is the peak of the resident set during the work less the resident set before it (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import environment
from store import Store

RESULTS = Path(__file__).parent / "results"
SHORT = {
    "ours, tolerance 0.01": ("ours", {"tolerance": 0.01}),
    "ours, 20 steps": ("ours", {"n_steps": 20}),
    "injected attention, 20 steps": ("by_hand", {"rows": None}),
    "injected attention, 20 steps, one row at a time": ("by_hand", {"rows": 1}),
}
LONG = ("pass", "reduced")


def measured(case: dict[str, Any]) -> dict[str, float]:
    """Run a case in a process of its own."""
    answer = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise SystemExit(f"The case {case} ended with {answer.returncode}:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def status(field: str) -> int:
    """KiB from this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def run_case(case: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(case["threads"])
    work = long_work(case) if "long" in case else short_work(case)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(json.dumps({"mebibytes": (status("VmHWM") - before) / 1024, "seconds": seconds * case.get("times", 1)}))


def short_work(case: dict[str, Any]) -> Any:
    from by_hand import by_hand
    from speed import build, sentences

    from captum_attattr import SelfAttentionAttribution, attention_layers

    model, tokenizer = build(case["size"])
    ids = sentences(tokenizer, 512, 1)
    kind, options = SHORT[case["how"]]
    if kind == "by_hand":
        case["times"] = len(attention_layers(model))
        return lambda: by_hand(model, ids, 20, "gausslegendre", **options, layers=attention_layers(model)[:1])
    method = SelfAttentionAttribution(lambda i: model(i).logits.softmax(-1), attention_layers(model))
    return lambda: method.attribute(ids, target=1, **options)


def long_work(case: dict[str, Any]) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from captum_attattr import SelfAttentionAttribution, attention_layers

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=16384,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 1000, (1, case["long"]))

    def forward(i: torch.Tensor) -> torch.Tensor:
        return model(i, logits_to_keep=1, use_cache=False).logits[:, -1]

    if case["how"] == "pass":
        return lambda: forward(ids)[:, 7].sum().backward()
    method = SelfAttentionAttribution(forward, attention_layers(model))
    return lambda: method.attribute(ids, target=7, tolerance=0.01, reduce="max")


def table(figures: dict[str, Any]) -> str:
    lines = []
    for size, cases in figures["short"].items():
        least = cases["ours, tolerance 0.01"]["mebibytes"]
        lines += [
            f"| {size} | {how} | {found['mebibytes']:.0f} | {found['mebibytes'] / least:.1f} | "
            f"{'~' * how.startswith('injected')}{found['seconds']:.1f} |"
            for how, found in cases.items()
        ]
    rows = "\n".join(
        f"| {tokens} | "
        + " | ".join(f"{found[how]['mebibytes']:.0f} | {found[how]['seconds']:.1f}" for how in LONG)
        + f" | {found['reduced']['mebibytes'] / int(tokens) * 1024:.0f} |"
        for tokens, found in figures["long"].items()
    )
    return f"""# Memory

Peak of the resident set above the loaded model, each case in a fresh process; made by `python benchmarks/memory.py`,
{figures["settings"]["threads"]} threads, float32.

## 512 tokens, one sentence, all layers

By hand the lowest layer, which needs the most, was measured; seconds are those times the number of layers ("~").

| model | how | MiB | times ours | seconds |
| --- | --- | --- | --- | --- |
{chr(10).join(lines)}

## Long inputs

Head scores of every layer (`reduce="max"`, tolerance 0.01) of a decoder with 4 layers, 8 heads in 2 groups and width
256, random weights, beside one forward and backward pass of the model.

| tokens | a pass: MiB | seconds | head scores: MiB | seconds | MiB per 1,024 tokens |
| --- | --- | --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["bundled", "BERT-base size"])
    parser.add_argument("--tokens", nargs="*", type=int, default=[1024, 2048, 4096, 8192])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run_case(args.case)
        return
    settings = {"sizes": args.sizes, "tokens": args.tokens, "threads": args.threads}
    store = Store(args.output / "memory.jsonl", settings, len(args.sizes) * len(SHORT) + len(args.tokens) * len(LONG))

    def found(**case: Any) -> dict[str, float]:
        name = " ".join(map(str, case.values()))
        return dict(store.get(name, lambda: measured({**case, "threads": args.threads})))

    figures: dict[str, Any] = {
        "settings": settings,
        "environment": environment(),
        "short": {size: {how: found(size=size, how=how) for how in SHORT} for size in args.sizes},
        "long": {str(tokens): {how: found(long=tokens, how=how) for how in LONG} for tokens in args.tokens},
    }
    (args.output / "memory.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.output / "memory.md").write_text(table(figures))
    store.file.unlink()
    print(table(figures))


if __name__ == "__main__":
    main()
