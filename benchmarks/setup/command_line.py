"""Options that benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


def command_line(name: str, doc: str | None, threads: int | None = None) -> argparse.ArgumentParser:
    """The options of all benchmarks; ``threads`` by default where time or memory is measured, else as many as torch."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=threads or torch.get_num_threads(), help="of torch")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    return parser


def add_texts(
    parser: argparse.ArgumentParser, files: str, *, default: Path | None = None, limit: int | None = None
) -> None:
    """The options of a benchmark over texts; ``files`` says what --data is, ``limit`` is how many by default."""
    parser.add_argument("--data", type=Path, required=default is None, default=default, help=files)
    parser.add_argument("--model", help="classification model, a folder or a name (default: the bundled one)")
    parser.add_argument("--limit", type=int, default=limit, help=f"texts, at most (default: {limit or 'all'})")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")


def add_language_model(parser: argparse.ArgumentParser, examples: str, *, required: bool) -> None:
    """The options that say where the language model is, how many of the examples there are, and the tolerance."""
    parser.add_argument("--folder", type=Path, required=required, help="of a language model of transformers")
    parser.add_argument("--gguf", help="its file in that folder, where it is a GGUF")
    parser.add_argument("--examples", type=int, default=20, help=examples)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--device", default="cpu", help="of torch, where the model is")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options as they were given; torch has its threads, and the folder for the results is there."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def settings_of(args: argparse.Namespace, *without: str) -> dict[str, Any]:
    """The options that results depend on: all but ``--output`` and those named."""
    return {name: value for name, value in vars(args).items() if name not in ("output", *without)}
