"""Is it true? Tokens and attention edges removed in the order of each method's scores.

    python benchmarks/faithfulness.py --data sst2/ --output benchmarks/results

Token level, every sentence: comprehensiveness, sufficiency and log-odds at 5, 10, 20 and 50%, with tokens hidden by the
attention mask, deleted, or replaced by [MASK], and the full curve with tokens hidden. Pair level, the first ``--pairs``
sentences: attention edges are cut in all layers at once and in one layer at a time, the most and the least important
first; and scores are compared with the exact effect of single edges (a sample) and of all single heads.

Sentences are taken in a random order (``--seed``) and each one's results are appended to faithfulness.jsonl in the
output folder: broken off, the same command goes on where it was, and a larger ``--limit`` adds to what is there.
Without ``--data`` the bundled reviews are used.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from faithfulness_methods import PAIR_METHODS, Sentence, Subject, heads_of, pair_methods, token_methods
from faithfulness_report import write_report
from store import Store
from tqdm import tqdm

from captum_attattr.demo import REVIEWS
from captum_attattr.faithfulness import (
    FRACTIONS,
    EdgeRemoval,
    HeadRemoval,
    agreement,
    deletion_curve,
    leave_one_out,
    sufficiency,
)
from captum_attattr.files.examples import read_examples

RESULTS = Path(__file__).parent / "results"
HOWS = ("mask", "delete", "replace")
TOKEN_FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EDGE_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)
LAYER_FRACTIONS = (0.01, 0.05, 0.2, 0.5)


def measure_tokens(sentence: Sentence, seeds: int) -> dict[str, Any]:
    """For each method: seconds, and for each way of removal the outputs on the curve and the sufficiency."""
    scores, found = [], {}
    for name, method in token_methods(seeds).items():
        result, seconds = sentence.timed(method)
        scores.append(result.double())
        found[name] = {"seconds": seconds}
    together = torch.stack(scores)
    for how in HOWS:
        removal = sentence.removal(how, len(together))
        fractions = TOKEN_FRACTIONS if how == "mask" else FRACTIONS
        curves = deletion_curve(removal, together, fractions).outputs
        rest = sufficiency(removal, together, FRACTIONS)
        for entry, curve, sufficient in zip(found.values(), curves, rest, strict=True):
            entry[how] = {"curve": rounded(curve), "sufficiency": rounded(sufficient)}
    return found


def measure_pairs(sentence: Sentence, seeds: int, edges: int, seed: int) -> dict[str, Any]:
    """For each method: seconds, outputs on the curves, and the agreement with single edges and heads."""
    arguments = (sentence.forward, sentence.subject.layers, sentence.ids)
    removal = EdgeRemoval(*arguments, target=sentence.target)
    heads = HeadRemoval(*arguments, target=sentence.target)
    edge_effects, head_effects = leave_one_out(removal, edges, seed=seed), leave_one_out(heads)
    found: dict[str, Any] = {}
    for name, method in pair_methods(seeds).items():
        scores, seconds = sentence.timed(method)
        shaped = [score[None] for score in scores]
        found[name] = {
            "seconds": seconds,
            "edges": float(agreement(removal, shaped, edge_effects)),
            "heads": float(agreement(heads, heads_of(name, scores), head_effects)),
        }
        for order in ("most", "least"):
            found[name][order] = rounded(deletion_curve(removal, shaped, EDGE_FRACTIONS, order=order).outputs[0])
            if name in PAIR_METHODS or name == "random 0":
                found[name][f"layers {order}"] = [
                    rounded(deletion_curve(removal.within(layer), shaped, LAYER_FRACTIONS, order=order).outputs[0])
                    for layer in range(len(scores))
                ]
    return found


def rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


def measure(args: argparse.Namespace, store: Store) -> None:
    """Add the results of each sentence that the store does not hold yet."""
    examples = read_examples(args.data, args.split)
    order = list(range(len(examples)))
    random.Random(args.seed).shuffle(order)
    order = order[: args.limit]
    subject = Subject(args.model, args.steps)
    for number, place in enumerate(tqdm(order, desc="Sentences", unit="sentence")):
        sentence = subject.sentence(examples[place].text)
        store.get(f"tokens {place}", lambda s=sentence: measure_tokens(s, args.random))
        if number < args.pairs:
            store.get(f"pairs {place}", lambda s=sentence: measure_pairs(s, args.random, args.edges, args.seed))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What every record of a file must have in common."""
    return {
        "data": Path(args.data).name,
        "split": args.split,
        "model": args.model or "bundled",
        "seed": args.seed,
        "random": args.random,
        "edges": args.edges,
        "n_steps": args.steps,
        "token_fractions": [0.0, *TOKEN_FRACTIONS],
        "fractions": list(FRACTIONS),
        "edge_fractions": [0.0, *EDGE_FRACTIONS],
        "layer_fractions": [0.0, *LAYER_FRACTIONS],
    }


def records_of(store: Store) -> list[dict[str, Any]]:
    """A sentence each: its token level and, where it was measured, its pair level."""
    records: dict[str, dict[str, Any]] = {}
    for name, result in store.results.items():
        part, place = name.split()
        records.setdefault(place, {})[part] = result
    return list(records.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(REVIEWS), help="a TSV file, or a folder with {split}.tsv")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", help="a folder or a name on the Hugging Face Hub; the bundled model by default")
    parser.add_argument("--limit", type=int, help="only so many sentences")
    parser.add_argument("--pairs", type=int, default=200, help="so many of them for the pair level, which costs more")
    parser.add_argument("--edges", type=int, default=100, help="single edges of a sentence to leave out one at a time")
    parser.add_argument("--random", type=int, default=5, help="seeds of the random scores")
    parser.add_argument("--steps", type=int, default=6, help="evaluations on the path of our method, for each layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    args = parser.parse_args()
    if args.random < 1 or args.pairs < 0:
        parser.error("--random must be at least 1, --pairs at least 0")
    torch.set_num_threads(args.threads)
    store = Store(args.output / "faithfulness.jsonl", settings_of(args))
    if not args.report:
        measure(args, store)
    print(write_report(records_of(store), settings_of(args), args.output))


if __name__ == "__main__":
    main()
