"""The command line of the benchmark."""

from __future__ import annotations

from benchmarks import triggers
from benchmarks.setup.command_line import add_texts, command_line, parsed
from benchmarks.triggers.report import draw, markdown, summary
from benchmarks.triggers.rounds import measure


def main() -> None:
    parser = command_line("triggers", triggers.__doc__)
    add_texts(parser, "folder with train.tsv and test.tsv")
    parser.add_argument("--sentences", type=int, default=150, help="training sentences searched in a round")
    parser.add_argument(
        "--words", type=int, default=13, help="words that a training sentence needs (the authors: 15 tokens)"
    )
    parser.add_argument("--top", type=int, default=3, help="triggers of each class")
    parser.add_argument("--steps", type=int, default=6, help="steps of attention attribution")
    parser.add_argument("--token-steps", type=int, default=50, help="steps of integrated gradients (Captum's default)")
    parser.add_argument("--seeds", type=int, default=5, help="number of rounds, the first of them with --seed")
    args = parsed(parser)
    figures, store = measure(args)
    figures["summary"] = summary(figures)
    draw(figures, args.output / "triggers.png")
    store.finish(figures, markdown(figures))


if __name__ == "__main__":
    main()
