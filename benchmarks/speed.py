"""How long self-attention attribution of every layer takes, against what a Captum user would do by hand.

    python benchmarks/speed.py

Both sides do the same work in one run: BERT-base size with random weights (its speed does not depend on what it was
trained on), one sentence of 128 tokens, 20 steps of the same rule, all 12 layers.

* ours: ``SelfAttentionAttribution`` over all layers.
* by hand: Captum's ``IntegratedGradients``, layer by layer, over a forward function that takes the attention matrix
  of that layer as its input and puts it into the model.

The unit is a forward pass of the model. It is given twice: for the sentence alone, and per row of a batch as large as
the ones that the method runs, which is the strict one, since a batch uses the processor better. The bound is
what the replays need if a backward pass with respect to activations costs what a forward pass costs:
2 sum_l (L - l - 1/4) / L forward passes a step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum
import torch
import transformers
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from captum_attattr import SelfAttentionAttribution, attention_layers

RESULTS = Path(__file__).parent / "results"


class InjectedAttention:
    """F as a function of one layer's attention matrix, the way one does it by hand: plain attention in the graph."""

    def __init__(self, model: nn.Module, layer: nn.Module, ids: Tensor) -> None:
        self.model, self.layer, self.ids = model, layer, ids
        self.matrix: Tensor | None = None

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        own = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        if module is self.layer:
            if self.matrix is None:
                self.clean = own.detach()
            else:
                own = self.matrix
        return (own @ value).transpose(1, 2).contiguous(), own

    def __call__(self, matrix: Tensor | None) -> Tensor:
        self.matrix = matrix
        transformers.AttentionInterface.register("by_hand", self.attend)
        before = self.model.config._attn_implementation
        self.model.config._attn_implementation = "by_hand"
        try:
            rows = 1 if matrix is None else len(matrix)
            return self.model(self.ids.expand(rows, -1)).logits.softmax(-1)
        finally:
            self.model.config._attn_implementation = before


def by_hand(model: nn.Module, ids: Tensor, n_steps: int, method: str, rows: int) -> list[Tensor]:
    found = []
    for layer in attention_layers(model):
        function = InjectedAttention(model, layer, ids)
        with torch.no_grad():
            function(None)
        gradients = IntegratedGradients(function)
        shares = gradients.attribute(function.clean, target=1, n_steps=n_steps, method=method, internal_batch_size=rows)
        found.append(shares)
    return found


def seconds(work: Callable[[], Any], repeats: int, what: str) -> list[float]:
    """Times of several runs after one that does not count."""
    times = []
    for _ in tqdm(range(repeats + 1), desc=what, unit="run"):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[1:]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=args.layers)).eval()
    ids = torch.randint(1000, 30000, (1, args.tokens))
    method = SelfAttentionAttribution(model_output := (lambda i: model(i).logits.softmax(-1)), attention_layers(model))

    def ours() -> list[Tensor]:
        return method.attribute(ids, target=1, n_steps=args.steps, method=args.method)

    @torch.no_grad()
    def forward(rows: int) -> Tensor:
        return model_output(ids.expand(rows, -1))

    alone = statistics.median(seconds(lambda: forward(1), 10, "a forward pass, alone"))
    batched = min(
        statistics.median(seconds(lambda rows=rows: forward(rows), 5, f"forward passes, {rows} rows")) / rows
        for rows in (5, 10, 20)
    )
    pairs = []
    for _ in tqdm(range(args.repeats), desc="ours and by hand, in turn", unit="pair"):
        start = time.perf_counter()
        shares = ours()
        middle = time.perf_counter()
        theirs = by_hand(model, ids, args.steps, args.method, args.rows)
        end = time.perf_counter()
        pairs.append((middle - start, end - middle))
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(shares, theirs, strict=True))
    ours_seconds = statistics.median(pair[0] for pair in pairs)
    hand_seconds = statistics.median(pair[1] for pair in pairs)
    bound = 2 * sum(args.layers - layer - 0.25 for layer in range(args.layers)) / args.layers
    return {
        "settings": vars(args),
        "forward_alone_seconds": alone,
        "forward_batched_seconds": batched,
        "ours_seconds": ours_seconds,
        "by_hand_seconds": hand_seconds,
        "speedup": statistics.median(pair[1] / pair[0] for pair in pairs),
        "speedups": [pair[1] / pair[0] for pair in pairs],
        "bound_forwards_a_step": bound,
        "ours_forwards_a_step": ours_seconds / args.steps / batched,
        "ours_forwards_alone_a_step": ours_seconds / args.steps / alone,
        "ours_over_bound": ours_seconds / args.steps / batched / bound,
        "by_hand_forwards_a_step": hand_seconds / args.steps / batched,
        "relative_difference": difference,
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "captum": captum.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def table(figures: dict[str, Any]) -> str:
    s = figures["settings"]
    return f"""# Speed

BERT-base size ({s["layers"]} layers, random weights), one sentence of {s["tokens"]} tokens, {s["steps"]} steps of
{s["method"]}, all layers, {s["threads"]} threads, float32. Medians of {
        s["repeats"]
    } runs, both sides in turn in one process.
Made by `python benchmarks/speed.py`.

| | seconds | forward passes a step (row of a batch) |
| --- | --- | --- |
| a forward pass, the sentence alone | {figures["forward_alone_seconds"]:.4f} | |
| a forward pass, per row of a batch | {figures["forward_batched_seconds"]:.4f} | 1 |
| bound of the replays | | {figures["bound_forwards_a_step"]:.2f} |
| **SelfAttentionAttribution, all layers** | {figures["ours_seconds"]:.2f} | {figures["ours_forwards_a_step"]:.2f} |
| IntegratedGradients over injected attention, all layers | {figures["by_hand_seconds"]:.2f} | {
        figures["by_hand_forwards_a_step"]:.2f} |

* Ours takes {figures["ours_over_bound"]:.3f} times the bound. In forward passes of the sentence alone it takes
  {figures["ours_forwards_alone_a_step"]:.2f} a step.
* It is **{figures["speedup"]:.2f} times faster** than the same steps by hand (single pairs of runs: {
        ", ".join(f"{x:.2f}" for x in figures["speedups"])
    }).
* Largest relative difference between the two results, over the layers: {figures["relative_difference"]:.1e}.

Environment: {", ".join(f"{k} {v}" for k, v in figures["environment"].items())}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--method", default="gausslegendre")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20, help="internal_batch_size of the work by hand")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    figures = measure(args)
    figures["settings"] = {k: v for k, v in vars(args).items() if k != "output"}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "speed.json").write_text(json.dumps(figures, indent=2) + "\n")
    (args.output / "speed.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
