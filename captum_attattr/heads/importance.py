"""The importance of a model's heads over a data set, the result of :class:`HeadImportance`: rank, save and load it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from captum_attattr.arguments import check_count
from captum_attattr.files.records import Count, Rows, Sealed, matrix, rows, seal, unseal
from captum_attattr.files.writing import write_text

FORMAT_VERSION = 1


class RankedHead(NamedTuple):
    """A head's numbers, with its mean score over examples and the standard error of the mean."""

    layer: int
    head: int
    score: float
    error: float


@dataclass(frozen=True, eq=False)
class Importance:
    """The importance of L layers with H heads, in the numbering of the unpruned model.

    Example:
        >>> from captum_attattr import HeadImportance
        >>> from captum_attattr.demo import load_demo, load_reviews
        >>> model, tokenizer = load_demo()
        >>> importance = HeadImportance(model, measure="taylor").run(load_reviews(), tokenizer=tokenizer)
        >>> importance.scores.shape, importance.examples
        (torch.Size([6, 12]), 60)
        >>> len(importance.lowest(0.5))  # the half of the heads to remove first
        36
    """

    scores: Tensor
    """(L, H), float64: means over examples, in the measure's unit; NaN for pruned heads."""
    standard_deviation: Tensor
    """(L, H): standard deviation over examples; NaN for fewer than two examples."""
    examples: int
    """Number of examples."""
    measure: str
    settings: dict[str, Any]
    """The settings of the run: model, measure and its settings, output, target, versions."""

    @property
    def standard_error(self) -> Tensor:
        """(L, H): standard error of the means, standard deviation / sqrt(examples), for independent examples."""
        return self.standard_deviation / math.sqrt(self.examples)

    def normalized(self, norm: Literal["l2"] | None = "l2") -> Tensor:
        """Divide each layer's scores by their L2 norm, as Michel et al. (NeurIPS 2019) do; None returns them unchanged.

        Raises:
            ValueError: The norm is unknown.
        """
        if norm is None:
            return self.scores
        if norm != "l2":
            raise ValueError(f"Unknown normalisation {norm!r} of layers. Choose 'l2' or None.")
        return self.scores / self._norms()

    def ranking(self, normalize: Literal["l2"] | None = None) -> list[RankedHead]:
        """Rank all heads that are left, the most important first; of equal ones the lower layer and head first.

        Args:
            normalize: See :meth:`normalized`. It applies to scores and errors.
        """
        scores = self.normalized(normalize)
        errors = self.standard_error if normalize is None else self.standard_error / self._norms()
        order = torch.argsort(scores.flatten().nan_to_num(-math.inf), descending=True, stable=True).tolist()
        places = [divmod(place, scores.shape[1]) for place in order]
        return [
            RankedHead(layer, head, float(scores[layer, head]), float(errors[layer, head]))
            for layer, head in places
            if not scores[layer, head].isnan()
        ]

    def lowest(self, count: int | float, normalize: Literal["l2"] | None = None) -> list[tuple[int, int]]:
        """Return the least important heads of all layers, as (layer, head): those to mask or prune first.

        Args:
            count: A number of heads (int), or a fraction of the heads that are left (float from 0 to 1, rounded).
            normalize: See :meth:`normalized`. "l2" kept more accuracy in ``benchmarks/results/pruning.md`` with most
                measures (all but attattr, where it made no clear difference), and is the command line's default.

        Raises:
            ValueError: ``count`` is below 0 or larger than possible.
        """
        ranking = self.ranking(normalize)
        is_fraction = isinstance(count, float)
        if isinstance(count, bool) or not 0 <= count <= (1 if is_fraction else len(ranking)):
            raise ValueError(
                f"count must be a fraction from 0.0 to 1.0 or a number from 0 to {len(ranking)}, got {count!r}."
            )
        number = round(count * len(ranking)) if is_fraction else int(count)
        return [(head.layer, head.head) for head in reversed(ranking[len(ranking) - number :])]

    def outside_top(self, k: int) -> list[tuple[int, int]]:
        """Return all but the k most important heads of each layer, as (layer, head).

        Raises:
            ValueError: ``k`` is no whole number of at least 0.
        """
        check_count("k", k, least=0)
        seen = [0] * len(self.scores)
        outside = []
        for head in self.ranking():
            seen[head.layer] += 1
            if seen[head.layer] > k:
                outside.append((head.layer, head.head))
        return sorted(outside)

    def to_dict(self) -> dict[str, Any]:
        """Return the importance in plain types, for JSON; pruned heads are None."""
        return {
            "version": FORMAT_VERSION,
            "measure": self.measure,
            "examples": self.examples,
            "scores": rows(self.scores),
            "standard_deviation": rows(self.standard_deviation),
            "standard_error": rows(self.standard_error),
            "ranking": [[head.layer, head.head] for head in self.ranking()],
            "settings": self.settings,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the importance to a JSON file, completely or not at all.

        Raises:
            ValueError: The file cannot be written.
        """
        return write_text("The importance", path, json.dumps(seal(self.to_dict()), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Importance:
        """Read an importance that :meth:`save` wrote.

        Raises:
            ValueError: There is no such file, or it is damaged, no importance, or of a newer version.
        """
        try:
            found = unseal(_Saved, Path(path).read_text(encoding="utf-8"), FORMAT_VERSION)
            scores, spread = matrix(found.scores), matrix(found.standard_deviation)
            if spread.shape != scores.shape or bool((spread < 0).any()):
                raise ValueError("its standard deviations do not fit its scores")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path} is no saved importance of heads, or damaged: {error}") from error
        return cls(scores, spread, found.examples, found.measure, found.settings)

    def __repr__(self) -> str:
        """Short: the measure and the sizes."""
        layers, heads = self.scores.shape
        return f"Importance({self.measure!r}, {layers} layers x {heads} heads, {self.examples} examples)"

    def _norms(self) -> Tensor:
        norms = self.scores.nan_to_num(0).norm(dim=1, keepdim=True)
        return torch.where(norms > 0, norms, 1)


class _Saved(Sealed):
    measure: str
    examples: Annotated[int, Field(ge=1, le=2**53)]
    scores: Rows
    standard_deviation: Rows
    standard_error: Rows
    ranking: list[list[Count]]
    settings: dict[str, Any]
