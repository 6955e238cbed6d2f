"""The paragraphs of the report, put together from its figures so that they cannot contradict them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Samples = dict[str, Any]

OURS = "ours"
KNOWING = "leave-one-out"
IG = ("integrated gradients, [PAD]", "integrated gradients, zero")


def verdict(difference: Sequence[float], *, lowest: bool = False) -> str:
    """ "better", "worse" or "not told apart" of a paired difference with its interval."""
    _, low, high = difference
    if low <= 0 <= high:
        return "not told apart from"
    return "better than" if (high < 0) == lowest else "worse than"


def span(difference: Sequence[float]) -> str:
    return f"{difference[0]:+.3f}, {difference[1]:+.3f} to {difference[2]:+.3f}"


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def listed(names: Sequence[str]) -> str:
    return joined([f"*{name}*" for name in names])


def split_by_verdict(
    sample: Any, one: str, others: Sequence[str], *, lowest: bool = False, everyone: bool = False
) -> list[str]:
    """Clauses: better than these, not told apart from those, worse than these; ``everyone``: there are no others."""
    clauses = []
    for word in ("better than", "not told apart from", "worse than"):
        names = [o for o in others if verdict(sample.difference(one, o), lowest=lowest) == word]
        if names:
            whom = "all other methods" if everyone and len(names) == len(others) else listed(names)
            clauses.append(f"{word} {whom}")
    return clauses


def token_words(tokens: Samples) -> str:
    methods = list(tokens["aopc"].values)
    ours = [m for m in methods if m.startswith(OURS)]
    others = [m for m in methods if m not in ours and m != "random"]
    best = tokens["comprehensiveness mask"].best(ours)
    words = [_overall(tokens, methods), _reductions(tokens, ours)]
    for measure, lowest in (("comprehensiveness", False), ("sufficiency", True), ("log-odds", True)):
        clauses = split_by_verdict(tokens[f"{measure} mask"], best, others, lowest=lowest, everyone=True)
        words.append(f"By {measure} (tokens hidden) *{best}* is {'; '.join(clauses)}.")
    words.append(_ways(tokens, best))
    words.append(_costs(tokens, best))
    words.append(
        f"(*{best}* was picked as the best of {len(ours)} on these same sentences, the others stand for themselves.) "
        "*leave-one-out* is a control: it measures what the first removal does, and knows nothing of what several "
        "tokens do together."
    )
    return " ".join(words)


def _overall(tokens: Samples, methods: Sequence[str]) -> str:
    winners = []
    for measure, lowest in (("comprehensiveness", False), ("sufficiency", True), ("log-odds", True)):
        sample = tokens[f"{measure} mask"]
        first = sample.best([m for m in methods if m != "random"], lowest=lowest)
        winners.append(f"{measure} by *{first}* ({sample.mean(first)[0]:.3f})")
    chance = tokens["comprehensiveness mask"].mean("random")[0]
    return f"The best mean {joined(winners)}; random order has a comprehensiveness of {chance:.3f}."


def _reductions(tokens: Samples, ours: Sequence[str]) -> str:
    sample = tokens["comprehensiveness mask"]
    best = sample.best(ours)
    rest = [m for m in ours if m != best]
    beaten = [m for m in rest if verdict(sample.difference(best, m)) == "better than"]
    if len(beaten) == len(rest):
        return f"Of the ways to reduce our attributions to tokens *{best}* is clearly the best."
    level = [m for m in rest if m not in beaten]
    text = f"Of the ways to reduce our attributions to tokens *{best}* has the best mean, not told apart from "
    text += listed(level)
    return text + (f", and better than {listed(beaten)}." if beaten else ".")


def _ways(tokens: Samples, best: str) -> str:
    parts = []
    for how, name in (("delete", "deleted"), ("replace", "replaced by [MASK]")):
        sample = tokens[f"comprehensiveness {how}"]
        parts.append(f"{name}, it is {'; '.join(split_by_verdict(sample, best, IG))}")
    return f"With tokens {', and '.join(parts)} (comprehensiveness)."


def _costs(tokens: Samples, best: str) -> str:
    times = {m: float(np.median(values)) for m, values in tokens["seconds"].values.items()}
    quick = [m for m in times if m != "random" and times[m] < times[best] / 3]
    sample = tokens["comprehensiveness mask"]
    as_good = [m for m in quick if verdict(sample.difference(m, best)) != "worse than"]
    text = f"It takes {times[best]:.2f} s a sentence, *{IG[0]}* {times[IG[0]]:.2f} s."
    if as_good:
        return f"{text} At less than a third of its cost {listed(as_good)} is no worse: for tokens alone, use that."
    return f"{text} No method at less than a third of its cost is as good."


def pair_words(pairs: Samples) -> str:
    methods = list(pairs["gap"].values)
    rivals = [m for m in methods if m != "random"]
    words = []
    for measure, what in (
        ("gap", "The widest gap, with all layers cut at once"),
        ("gap by layer", "The widest gap, with one layer cut"),
    ):
        sample = pairs[measure]
        first = sample.best(rivals)
        clauses = split_by_verdict(sample, first, [m for m in rivals if m != first], everyone=True)
        words.append(f"{what}: *{first}* ({sample.mean(first)[0]:.3f}), {'; '.join(clauses)}.")
    for measure, what in (("edges", "the exact effect of single edges"), ("heads", "that of single heads")):
        sample = pairs[measure]
        known = [m for m in rivals if sample.mean(m)[0] == sample.mean(m)[0]]
        first = sample.best(known)
        clauses = split_by_verdict(sample, first, [m for m in known if m != first], everyone=True)
        words.append(f"With {what} *{first}* agrees best ({sample.mean(first)[0]:.3f}), {'; '.join(clauses)}.")
    words.append(_one_step(pairs))
    words.append(
        "A uniform baseline asks another question than a cut edge does (what looking there adds to looking everywhere "
        "alike), so cutting edges does not do it justice."
    )
    return " ".join(words)


def _one_step(pairs: Samples) -> str:
    """Is the integral worth its cost against one gradient?"""
    names = {"gap": "gap, all layers", "gap by layer": "gap, one layer", "edges": "single edges", "heads": "heads"}
    differences = {m: pairs[m].difference("ours layerwise", "attention x gradient") for m in names}
    parts = [f"by {name} {verdict(differences[m])} it ({span(differences[m])})" for m, name in names.items()]
    text = f"Against *attention x gradient*, one step where the model stands, *ours layerwise* is {joined(parts)}."
    verdicts = {m: verdict(difference) for m, difference in differences.items()}
    if verdicts["edges"] == "worse than" and verdicts["gap by layer"] == "better than":
        text += (
            " So the gradient knows best what one small change does, and the integral what many edges of a layer do "
            "together: take the first to rank single edges, the second to say what a layer rests on."
        )
    return text
