"""Does memory stay flat, and is every hook taken off? Many explanations of texts of mixed lengths, one after the other.

    python -m benchmarks.soak                    # 300 explanations, up to 512 tokens each
    python -m benchmarks.soak --count 60 --most 64

The resident set is read after each explanation (Linux); what it is after ``--settled`` of them is what it is compared
with, so that caches of torch and of the allocator are full by then. glibc is told to give each larger piece of memory
back as soon as it is freed: by default it keeps more and more of them, between those in use, and the resident set shows
that instead of what is still in use. The script fails if the mean of the last tenth is
more than 5% above it (``--allowed``), or if a module has another number of hooks or attributes than before.
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
from typing import Any

import torch
import torch.nn.modules.module as torch_module

from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment, resident_mebibytes
from captum_attattr import explain
from captum_attattr.demo import load_demo, load_reviews


def attached(model: torch.nn.Module) -> int:
    """How many hooks and attributes the modules have, torch's own of all modules included."""
    scopes: list[dict[str, Any]] = [vars(torch_module), *(vars(module) for module in model.modules())]
    hooks = [value for scope in scopes for name, value in scope.items() if "hook" in name and isinstance(value, dict)]
    return sum(map(len, hooks)) + sum(len(vars(module)) for module in model.modules())


def give_back_what_is_freed() -> None:
    """Have glibc map each piece of 128 KiB or more by itself, whatever was freed before (mallopt(3))."""
    m_mmap_threshold = -3
    ctypes.CDLL(None).mallopt(m_mmap_threshold, 128 * 1024)


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
    parser = command_line("soak", __doc__, threads=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--settled", type=int, default=50)
    parser.add_argument("--most", type=int, default=512, help="tokens of the longest text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allowed", type=float, default=0.05, help="growth of the resident set")
    args = parsed(parser)
    give_back_what_is_freed()
    model, tokenizer = load_demo()
    before, sizes = attached(model), []
    for number, text in enumerate(texts(tokenizer, args.count, args.most, args.seed), 1):
        explain(text, model, tokenizer)
        gc.collect()
        sizes.append(resident_mebibytes())
        if number % 10 == 0:
            print(f"{number:4d} explanations, {sizes[-1]:7.0f} MiB resident", flush=True)
    tenth = max(1, args.count // 10)
    settled = sum(sizes[args.settled : args.settled + tenth]) / tenth
    last = sum(sizes[-tenth:]) / tenth
    growth, left = round(last / settled - 1, 4), attached(model) - before
    report = {
        "environment": environment(),
        "settings": settings_of(args),
        "MiB after they settled": round(settled, 1),
        "MiB at the end": round(last, 1),
        "growth": growth,
        "hooks and attributes more than before": left,
    }
    print(json.dumps(report, indent=2))
    every = {**report, "MiB": [round(size, 1) for size in sizes]}
    (args.output / "soak.json").write_text(json.dumps(every, indent=1))
    if growth > args.allowed or left:
        raise SystemExit("Memory or hooks grow.")


if __name__ == "__main__":
    main()
