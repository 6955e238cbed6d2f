"""Samples of every measure, one number a sentence, with bootstrap intervals of their means and differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.faithfulness.curves import HOWS
from captum_attattr.faithfulness.token_removal import How

Records = list[dict[str, Any]]
Interval = tuple[float, float, float]
"""Mean, and the ends of the 95% interval."""

Entry = dict[str, Any]
"""What was measured of a method on a sentence."""
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "comprehensiveness": lambda curve, _: curve[0] - curve[1:],
    "sufficiency": lambda _, rest: rest,
    "log-odds": lambda curve, _: log_odds(curve)[1:] - log_odds(curve)[0],
}
"""A number for each fraction, of F before and after the removals, and of what it loses with only the best tokens."""
RESAMPLES = 1000


class Sample:
    """One number a sentence for each method; the random methods of all seeds are one, their mean."""

    def __init__(self, records: Records, part: str, value: Callable[[Entry], Any], seed: int = 0) -> None:
        rows = [[value(entry) for entry in record[part].values()] for record in records]
        names, table = list(records[0][part]), np.array(rows, dtype=float)
        chance = [place for place, name in enumerate(names) if name.startswith("random ")]
        self.values = {name: table[:, place] for place, name in enumerate(names) if place not in chance}
        if chance:
            self.values["random"] = table[:, chance].mean(1)
        self._picks = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))

    def mean(self, method: str) -> Interval:
        return self._interval(self.values[method])

    def difference(self, one: str, other: str) -> Interval:
        """Of two methods on the same sentences."""
        return self._interval(self.values[one] - self.values[other])

    def best(self, methods: Sequence[str], *, lowest: bool = False) -> str:
        return sorted(methods, key=lambda m: (1 if lowest else -1) * float(np.nanmean(self.values[m])))[0]

    def _interval(self, values: np.ndarray) -> Interval:
        if np.isnan(values).all():
            return (float("nan"),) * 3
        known = ~np.isnan(values)
        sums = np.where(known, values, 0)[self._picks].sum(1) / np.maximum(known[self._picks].sum(1), 1)
        low, high = np.percentile(sums, [2.5, 97.5])
        return float(np.nanmean(values)), float(low), float(high)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, 1e-15, 1 - 1e-15)
    odds: np.ndarray = np.log(p / (1 - p))
    return odds


def token_samples(records: Records, settings: dict[str, Any], seed: int) -> dict[str, Sample]:
    """By measure: comprehensiveness, sufficiency and log-odds (of each fraction, and their means), AOPC, seconds."""
    at_fractions = [settings["token_fractions"].index(fraction) for fraction in settings["fractions"]]
    points = {how: at_fractions if how == "mask" else list(range(1, 1 + len(at_fractions))) for how in HOWS}
    endings = {"": None} | {f" {fraction}": place for place, fraction in enumerate(settings["fractions"])}
    found: dict[str, Sample] = {}

    def add(name: str, value: Callable[[Entry], Any]) -> None:
        found[name] = Sample(records, "tokens", value, seed)

    def at(measure: str, how: How, place: int | None, entry: Entry) -> Any:
        """At a place among the fractions, or the mean over them."""
        curve, rest = np.array(entry[how]["curve"]), np.array(entry[how]["sufficiency"])
        values = MEASURES[measure](curve[[0, *points[how]]], rest)
        return values.mean() if place is None else values[place]

    for how, measure, (ending, place) in itertools.product(HOWS, MEASURES, endings.items()):
        add(f"{measure} {how}{ending}", partial(at, measure, how, place))
    tenths = [k for k, fraction in enumerate(settings["token_fractions"]) if fraction not in (0.05,)]
    add("aopc", lambda e: e["mask"]["curve"][0] - np.mean([e["mask"]["curve"][k] for k in tenths]))
    add("seconds", lambda e: e["seconds"])
    return found


def pair_samples(records: Records, settings: dict[str, Any], seed: int) -> dict[str, Sample]:
    """By name of measure: areas under the curves and their gap, in all layers and by layer; agreements."""
    xs, few = np.array(settings["edge_fractions"]), np.array(settings["layer_fractions"])

    def area(ys: Sequence[float], at: np.ndarray) -> float:
        return float(np.trapezoid(ys, at) / (at[-1] - at[0]))

    def layer_gap(entry: Entry) -> float:
        if "layers most" not in entry:
            return float("nan")
        return float(np.mean([area(least, few) - area(most, few) for most, least in _layers(entry)]))

    def drop(fraction: float, entry: Entry) -> float:
        return float(entry["most"][0] - entry["most"][settings["edge_fractions"].index(fraction)])

    measures: dict[str, Callable[[Entry], Any]] = {
        "most": lambda e: area(e["most"], xs),
        "least": lambda e: area(e["least"], xs),
        "gap": lambda e: area(e["least"], xs) - area(e["most"], xs),
        "gap by layer": layer_gap,
        "edges": lambda e: e["edges"],
        "heads": lambda e: e["heads"],
        "seconds": lambda e: e["seconds"],
    }
    for fraction in (0.001, 0.01, 0.1):
        measures[f"drop {fraction}"] = partial(drop, fraction)
    found = {name: Sample(records, "pairs", value, seed) for name, value in measures.items()}
    # By layer only one seed of the random scores was run: the mean over seeds must not be missing for that.
    found["gap by layer"].values["random"] = np.array([layer_gap(r["pairs"]["random 0"]) for r in records])
    return found


def _layers(entry: Entry) -> list[tuple[list[float], list[float]]]:
    return list(zip(entry["layers most"], entry["layers least"], strict=True))
