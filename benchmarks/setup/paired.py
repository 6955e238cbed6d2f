"""Benchmarks of two ways to attribute one text, taken in turns, over sizes of models, lengths and paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.results import Store
from captum_attattr.attribution import PathName

PATHS: tuple[PathName, ...] = ("layerwise", "joint")

Measure = Callable[[str, int, PathName, int], dict[str, float]]
"""From the size of a model, the number of tokens, the path and the number of repeats to figures."""


def run(
    name: str,
    description: str | None,
    cases: Sequence[tuple[str, int]],
    measure: Measure,
    markdown: Callable[[dict[str, Any]], str],
    repeats: int,
) -> None:
    """Read the command line, measure each case on both paths, and write the results.

    Args:
        name: The benchmark's name, of its files, too.
        description: For the command line.
        cases: Sizes of models and numbers of tokens.
        measure: Measures a case.
        markdown: Writes the page.
        repeats: The default number of repeats.
    """
    parser = command_line(name, description, threads=1)
    parser.add_argument("--most", type=int, help="only texts of at most so many tokens")
    parser.add_argument("--repeats", type=int, default=repeats)
    args = parsed(parser)
    settings = settings_of(args, "most")
    store = Store(args.output / f"{name}.jsonl", settings)
    found = {
        f"{size}, {tokens} tokens, {path}": store.get(
            f"{size} {tokens} {path}", measure, size, tokens, path, args.repeats
        )
        for size, tokens in cases
        if args.most is None or tokens <= args.most
        for path in PATHS
    }
    figures = {"settings": settings, "environment": environment(), "found": found}
    store.finish(figures, markdown(figures))
