"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

from tqdm import tqdm

from benchmarks import speed
from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store
from benchmarks.setup.sized_models import BUNDLED, SIZES
from benchmarks.speed.growth import growth
from benchmarks.speed.report import markdown
from benchmarks.speed.same_answer import cell
from benchmarks.speed.same_work import same_work


def main() -> None:
    parser = command_line("speed", speed.__doc__, threads=2)
    sizes = [BUNDLED, *SIZES]
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--tokens", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--layers", type=int, help="another depth for the sizes with random weights (a quick look)")
    parser.add_argument("--patience", type=float, default=10, help="seconds; longer work is timed once, or in a part")
    parser.add_argument("--repeats", type=int, default=3)
    args = parsed(parser)
    settings = settings_of(args)
    store = Store(args.output / "speed.jsonl", settings)
    grid = [(size, tokens, batch) for size in args.sizes for tokens in args.tokens for batch in args.batch]
    figures = {
        "settings": settings,
        "environment": environment(),
        "same_work": store.get("same work", same_work, args.layers, args.repeats),
        "cells": [
            store.get(f"cell {size}, {tokens}, {batch}", cell, size, tokens, batch, args)
            for size, tokens, batch in tqdm(grid, desc="the same answer", unit="cell")
        ],
        "growth": growth(args.repeats, store),
    }
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
