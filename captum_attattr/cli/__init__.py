"""The command line: one module for each command, with ``add(commands)`` and the function that runs it."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

_COMMANDS = ("explain", "heads", "prune", "triggers")

_EPILOG = """examples:
  captum-attattr explain "The plot was interesting but the execution was poor."
  captum-attattr heads --data reviews.tsv
  captum-attattr prune --importance heads/heads.json --keep 0.5
  captum-attattr triggers --data reviews.tsv --attack reviews.tsv

captum-attattr COMMAND --help lists the options of a command, with more examples.

exit codes: 0 done, 2 an error in the input or the settings, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {message}")
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the picture shows a box in its place
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has ended, as in "| head".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return 0


def _tell(message: str) -> None:
    print(f"captum-attattr: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-attattr",
        description="Explain Transformers by their attention.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"captum-attattr {version('captum-attattr')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _commands():
        command.add(commands)
    return parser


@cache
def _commands() -> list[Any]:
    """Import the commands without garbage collection.

    Imports make a million objects that stay: to go through them again and again took a tenth of the command's time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return [import_module(f"{__name__}.{name}") for name in _COMMANDS]
    finally:
        gc.freeze()
        if collects:
            gc.enable()
