"""Does memory stay flat, and is every hook taken off? Many explanations of texts of mixed lengths, one after the other.

    python benchmarks/soak.py                    # 300 explanations, up to 512 tokens each
    python benchmarks/soak.py --count 60 --most 64

The resident set is read after each explanation (Linux); what it is after ``--settled`` of them is what it is compared
with, so that caches of torch and of the allocator are full by then. The script fails if the mean of the last tenth is
more than 5% above it (``--allowed``), or if a module has another number of hooks or attributes than before.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from machine import environment

from captum_attattr import explain
from captum_attattr.demo import load_demo, load_reviews


def resident() -> float:
    """MiB of the resident set."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def attached(model: torch.nn.Module) -> int:
    """How many hooks and attributes the modules have, torch's own of all modules included."""
    scopes: list[dict[str, Any]] = [vars(torch_module), *(vars(module) for module in model.modules())]
    hooks = [value for scope in scopes for name, value in scope.items() if "hook" in name and isinstance(value, dict)]
    return sum(map(len, hooks)) + sum(len(vars(module)) for module in model.modules())


def texts(tokenizer: Any, count: int, most: int, seed: int) -> list[str]:
    """Reviews strung together to lengths of 8 to ``most`` tokens, on a logarithmic scale."""
    chance = random.Random(seed)
    words = " ".join(sentence for sentence, _ in load_reviews()).split()
    made = []
    for _ in range(count):
        length = int(8 * (most / 8) ** chance.random())
        start = chance.randrange(len(words) - most)
        ids = tokenizer(" ".join(words[start : start + length]), truncation=True, max_length=length)["input_ids"]
        made.append(tokenizer.decode(ids, skip_special_tokens=True))
    return made


def main() -> None:
    """Run it, print the figures, keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--settled", type=int, default=50)
    parser.add_argument("--most", type=int, default=512, help="tokens of the longest text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allowed", type=float, default=0.05, help="growth of the resident set")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_demo()
    before, sizes = attached(model), []
    for number, text in enumerate(texts(tokenizer, options.count, options.most, options.seed), 1):
        explain(text, model, tokenizer)
        gc.collect()
        sizes.append(resident())
        if number % 10 == 0:
            print(f"{number:4d} explanations, {sizes[-1]:7.0f} MiB resident", flush=True)
    tenth = max(1, options.count // 10)
    settled = sum(sizes[options.settled : options.settled + tenth]) / tenth
    last = sum(sizes[-tenth:]) / tenth
    report = {
        "environment": environment(),
        "settings": {name: value for name, value in vars(options).items() if name != "output"},
        "MiB after they settled": round(settled, 1),
        "MiB at the end": round(last, 1),
        "growth": round(last / settled - 1, 4),
        "hooks and attributes more than before": attached(model) - before,
    }
    print(json.dumps(report, indent=2))
    options.output.mkdir(exist_ok=True)
    every = {**report, "MiB": [round(size, 1) for size in sizes]}
    (options.output / "soak.json").write_text(json.dumps(every, indent=1))
    if report["growth"] > options.allowed or report["hooks and attributes more than before"]:
        raise SystemExit("Memory or hooks grow.")


if __name__ == "__main__":
    main()
