"""Options that several commands have, each written once."""

from __future__ import annotations

import argparse
from typing import Any

from captum_attattr.text.model_output import OF_LABEL


def new_command(commands: Any, name: str, *, help: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Add a command, whose help ends in the epilog as it is; returns its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option for the classification model."""
    parser.add_argument("--model", metavar="NAME_OR_FOLDER", help="classification model (default: the bundled one)")


def add_data(parser: argparse.ArgumentParser, *, required: bool, split: str) -> None:
    """Add the options that choose labelled texts."""
    parser.add_argument(
        "--data",
        required=required,
        metavar="FILE_OR_FOLDER",
        help="labelled texts: a TSV file with the columns 'sentence' and 'label', and 'pair' if there, or a folder",
    )
    parser.add_argument("--split", default=split, help="which file of a folder, SPLIT.tsv (default: %(default)s)")
    add_choice_of_texts(parser, "take a random choice of N texts")


def add_choice_of_texts(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the options that limit the number of texts."""
    parser.add_argument("--limit", type=count, metavar="N", help=help)
    parser.add_argument("--seed", type=int, default=0, help="seed of that choice (default: 0)")


def add_explained(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option for F, the explained number; the folder for files is ``--output``."""
    parser.add_argument(
        "--output-kind",
        choices=OF_LABEL,
        default=default,
        help="what to explain of the label (default: %(default)s); a regression model's output is taken as it is",
    )
    # The former spellings.
    hidden: dict[str, Any] = {"dest": "output_kind", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("--explain", choices=OF_LABEL, **hidden)
    parser.add_argument("--logit", action="store_const", const="logit", **hidden)


def add_output(parser: argparse.ArgumentParser, folder: str, content: str = "files") -> None:
    """Add the option for the folder in which the command writes its files."""
    parser.add_argument("--output", metavar="FOLDER", default=folder, help=f"folder for {content} (default: {folder})")


def count(word: str) -> int:
    """Parse a whole number of at least 1."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least 1")
    return int(word)


def fraction(word: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        found = float(word)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 0 to 1")
    return found


def layer_numbers(word: str) -> list[int] | bool:
    """Parse numbers of layers between commas; True for all of them."""
    if word == "all":
        return True
    if not all(number.isdecimal() for number in word.split(",")):
        raise argparse.ArgumentTypeError(f"{word!r} is neither 'all' nor numbers of layers such as 0,5; texts go first")
    return [int(number) for number in dict.fromkeys(word.split(","))]


def start(word: str) -> float | str:
    """Parse the attention from which paths start: a number, or "uniform"."""
    if word == "uniform":
        return word
    try:
        return float(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is neither a number nor 'uniform'") from error
