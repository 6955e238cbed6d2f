"""The results of triggers: a table, its reading and a plot, all from the figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.setup.machine import line
from benchmarks.setup.results import table

OURS, TOKENS = "attention attribution", "token-level integrated gradients"
SHAPE, PAIR, WORD = "random, same shape", "random pair", "random word"
METHODS = (OURS, TOKENS, SHAPE, PAIR, WORD)

PAPER = (
    "The paper reports a fall from 82.87 to 0.8 for one class of MNLI (BERT-base, sentence pairs); {here}the "
    "strongest single trigger, *{words}* of {label}, leaves {left:.1f}."
)
NO_CHANCE = "So they are no chance finds: in every round they do more harm than every kind of random words."
CHANCE = "So they are not clearly better than chance: random words did as much harm in some rounds."
STRONGER = "They are the stronger attack, above token-level attributions, in every round."
WEAKER = (
    "But whoever wants to turn this model takes the words of token-level integrated gradients, which do more harm in "
    "every round; what attention attribution adds is which tokens act together, and in which head."
)
FEW = "With fewer than three rounds this is a first look, and nothing is concluded from it."
OPEN = "Against token-level integrated gradients it is open: ours does more harm in {better} of {rounds} rounds."


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """For each method: what is left on the other classes, a number a round (None where a round found no trigger)."""
    return {method: _of_method(method, figures) for method in METHODS}


def _of_method(method: str, figures: dict[str, Any]) -> dict[str, Any]:
    rounds = [[row for row in one["triggers"] if row["method"] == method] for one in figures["rounds"]]
    rows = [row for own in rounds for row in own]
    labels = figures["labels"]
    left = [{label: [r["others_after"] for r in own if r["label"] == label] for label in labels} for own in rounds]
    return {
        "triggers": len(rows),
        "words": _mean([len(row["words"]) for row in rows]),
        "mean": [_mean([row["others_after"] for row in own]) for own in rounds],
        "strongest": [_mean([min(own) for own in one.values() if own]) for one in left],
        "by_class": {label: [_mean(one[label]) for one in left] for label in labels},
        "lowest": min(rows, key=lambda row: row["others_after"], default=None),
        "score_and_fall": _correlation(rows),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _correlation(rows: Sequence[dict[str, Any]]) -> float | None:
    """Of a trigger's score and of what it takes from the accuracy, over all triggers that have a score."""
    scored = [(row["score"], row["others_before"] - row["others_after"]) for row in rows if row["score"] is not None]
    if len({score for score, _ in scored}) < 2 or len({fall for _, fall in scored}) < 2:
        return None
    return statistics.correlation(*zip(*scored, strict=True))


def _percent(values: Sequence[float | None]) -> str:
    """Mean, and the range over the rounds."""
    known = [100 * value for value in values if value is not None]
    return f"{statistics.mean(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else "none found"


def markdown(figures: dict[str, Any]) -> str:
    found, settings, labels = figures["summary"], figures["settings"], figures["labels"]
    rounds = len(figures["rounds"])
    before = {row["label"]: row["others_before"] for one in figures["rounds"] for row in one["triggers"]}
    others = 100 * statistics.mean(before.values())
    head = ["words chosen by", "words", "left, mean of the triggers", f"strongest of the {settings['top']}",
            *(f"triggers of {label}" for label in labels)]  # fmt: skip
    start = ["no trigger", "0", f"{others:.1f}", f"{others:.1f}",
             *(f"{100 * before[label]:.1f}" if label in before else "" for label in labels)]  # fmt: skip
    rows = [start, *(_row(method, found[method], labels) for method in METHODS)]
    seconds = {m: _mean([one["seconds_a_sentence"][m] for one in figures["rounds"]]) for m in (OURS, TOKENS)}
    return f"""# Triggers

How much accuracy triggers leave, in percent; lower is a stronger attack. Model: {figures["model"]}. Rounds: {rounds}.
In each round {figures["rounds"][0]["sentences"]} random training sentences of at least {settings["words"]} words are
searched, and the strongest {settings["top"]} triggers of each class are put into those of {figures["test_sentences"]}
test sentences that are of another class. Made by `python -m benchmarks.triggers --data FOLDER`.

{table(head, rows)}

Each figure is the mean over the rounds, the lowest and the highest round in brackets. "Words" is how many a trigger
has in the mean. "Strongest" takes for each class the trigger that the test sentences suffer from most: a choice made
on the test sentences, for all methods alike.

{reading(found, others)}

Time a sentence searched: {OURS} {seconds[OURS]:.2f} s ({settings["steps"]} steps on each layer), {TOKENS}
{seconds[TOKENS]:.2f} s ({settings["token_steps"]} steps), wall time of this run.

![accuracy left](triggers.png)

Environment: {line(figures["environment"])}.
"""


def _row(method: str, found: dict[str, Any], labels: Sequence[str]) -> list[str]:
    words = "" if found["words"] is None else f"{found['words']:.1f}"
    cells = [found["mean"], found["strongest"], *(found["by_class"][label] for label in labels)]
    return [method, words, *map(_percent, cells)]


def reading(found: dict[str, Any], others: float) -> str:
    """The table in words: every comparison follows from the figures."""
    ours = _mean(found[OURS]["mean"])
    if ours is None:
        return "**Reading.** Attention attribution found no trigger above the threshold."
    sentences = [f"**Reading.** Triggers of {OURS} take the accuracy from {others:.1f} to {100 * ours:.1f}."]
    sentences += [_against(method, found) for method in METHODS[1:] if _pairs(method, found)]
    lowest = found[OURS]["lowest"]
    left = 100 * lowest["others_after"]
    here = "" if left < 10 else "nothing like that happens here: "
    sentences.append(PAPER.format(here=here, words=" ".join(lowest["words"]), label=lowest["label"], left=left))
    few = len(found[OURS]["mean"]) < 3
    if (related := found[OURS]["score_and_fall"]) is not None and not few:
        much = "little" if abs(related) < 0.3 else "something" if abs(related) < 0.7 else "much"
        sentences.append(f"The score of such a trigger says {much} about what it does (correlation {related:+.2f}).")
    return "\n".join([*sentences, FEW if few else _advice(found)])


def _pairs(method: str, found: dict[str, Any]) -> list[tuple[float, float]]:
    """What ours and another method leave, in the rounds that have both."""
    both = zip(found[OURS]["mean"], found[method]["mean"], strict=True)
    return [(ours, theirs) for ours, theirs in both if ours is not None and theirs is not None]


def _against(method: str, found: dict[str, Any]) -> str:
    pairs = _pairs(method, found)
    gap = 100 * statistics.mean(theirs - ours for ours, theirs in pairs)
    wins = sum(ours < theirs for ours, theirs in pairs)
    what = f"{abs(gap):.1f} points {'less' if gap > 0 else 'more'} than {method}"
    return f"They leave {what} (less in {wins} of {len(pairs)} rounds)."


def _advice(found: dict[str, Any]) -> str:
    chance = all(ours < theirs for method in (SHAPE, PAIR, WORD) for ours, theirs in _pairs(method, found))
    against = _pairs(TOKENS, found)
    better = sum(ours < theirs for ours, theirs in against)
    verdict = {0: WEAKER, len(against): STRONGER}.get(better, OPEN.format(better=better, rounds=len(against)))
    return f"{NO_CHANCE if chance else CHANCE} {verdict if against else ''}".strip()


def draw(figures: dict[str, Any], path: Path) -> None:
    labels = figures["labels"]
    figure = Figure(figsize=(3.6 * len(labels) + 2.6, 3.4), layout="constrained")
    axes = figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, label in zip(axes, labels, strict=True):
        rows = [row for one in figures["rounds"] for row in one["triggers"] if row["label"] == label]
        for place, method in enumerate(METHODS):
            color = "C0" if method == OURS else "C1" if method == TOKENS else "0.45"
            left = [100 * row["others_after"] for row in rows if row["method"] == method]
            axis.plot(left, [place] * len(left), "o", color=color, alpha=0.35, markersize=5)
            if left:
                axis.plot(statistics.mean(left), place, "|", color=color, markersize=20, markeredgewidth=3)
        if rows:
            axis.axvline(100 * rows[0]["others_before"], color="black", linewidth=1, linestyle=":")
        axis.set_title(f"triggers of {label!r}", fontsize=10)
        axis.set_xlabel("accuracy left on the other classes, %")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(METHODS)), METHODS)
    axes[0].set_ylim(len(METHODS) - 0.5, -0.5)
    figure.suptitle("A dot a trigger, bar: mean, dotted line: no trigger", fontsize=10)
    figure.savefig(path, dpi=130)
