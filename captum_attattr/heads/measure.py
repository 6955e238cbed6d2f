"""The interface of a measure of how much a head matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from typing import Any

from torch import Tensor

from captum_attattr.engine.forward import Forward
from captum_attattr.heads.outputs import Examples
from captum_attattr.text.gold_labels import GoldLabels


class Measure(ABC):
    """A measure of how much each head matters for an example."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The measure's name."""

    @abstractmethod
    def scores(self, examples: Examples) -> list[Tensor]:
        """Compute one score a head and example: (B, heads) for each layer."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that must be the same when a run is resumed, in plain types."""
        return {"name": self.name, **(asdict(self) if is_dataclass(self) else {})}


def scores_of(forward: Forward, values: Tensor, target: Any, rows: Tensor | None = None) -> Tensor:
    """Select the target's value of each row, or take the mean over the gold labels."""
    if isinstance(target, GoldLabels):
        values, target = target.average(values, rows), None
    return forward.scores(values, target, rows)
