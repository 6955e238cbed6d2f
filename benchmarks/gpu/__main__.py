"""The command line of the benchmark, and the course of its measurements."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import gpu
from benchmarks.gpu.classifier import METHODS, classifier
from benchmarks.gpu.decoder import decoder
from benchmarks.gpu.report import markdown
from benchmarks.gpu.sizes import FULL, QUICK
from benchmarks.setup.command_line import command_line, parsed, settings_of
from benchmarks.setup.machine import environment
from benchmarks.setup.meter import Meter
from benchmarks.setup.paired import PATHS
from benchmarks.setup.results import Store

DTYPES = ("float32", "bfloat16")


def options() -> argparse.Namespace:
    """The command line; where no device is given, the GPU, or the CPU for a quick look where there is no GPU."""
    parser = command_line("gpu", gpu.__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, or cpu for --quick where that is not")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--patience", type=float, default=10, help="seconds of a run that is not repeated, or measured in part"
    )
    args = parsed(parser)
    found = torch.cuda.is_available()
    args.device = args.device or ("cpu" if args.quick and not found else "cuda")
    if args.device == "cuda" and not found:
        raise SystemExit("torch finds no GPU here. Run it where there is one, or give --quick --device cpu for a look.")
    return args


def main() -> None:
    args = options()
    settings, sizes = settings_of(args), QUICK if args.quick else FULL
    meter = Meter(args.device, args.repeats, args.patience)
    store = Store(args.output / "gpu.jsonl", settings)

    def case(work: Callable[..., dict[str, Any]], dtype: str, *which: Any) -> dict[str, Any]:
        name = ", ".join(map(str, (work.__name__, dtype, *which)))
        found: dict[str, Any] = store.get(name, work, sizes, dtype, *which, meter)
        print(f"{name}: {found['seconds']:.3g} s", flush=True)
        return {"dtype": dtype} | found

    figures = {
        "settings": settings,
        "environment": environment(args.device),
        "classifier": [
            case(classifier, dtype, batch, how) for dtype in DTYPES for batch in sizes.batches for how in METHODS
        ],
        "decoder": [case(decoder, dtype, path) for dtype in DTYPES for path in PATHS],
    }
    store.finish(figures, markdown(figures, sizes))


if __name__ == "__main__":
    main()
