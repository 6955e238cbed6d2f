"""Warnings of what makes explanations of texts less useful, one for all texts."""

from __future__ import annotations

from captum_attattr.text.explanation import Explanation
from captum_attattr.warned import warn

_UNKNOWN = 0.3
"""A larger part of unknown tokens is told."""
_SATURATED = 0.99
"""A probability above this hardly moves when attention goes away."""


class Doubts:
    """Collects what is doubtful about the explanations of some texts.

    Args:
        count: Number of texts.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._unknown, self._saturated = list[int](), list[int]()

    def note(self, place: int, unknown: float, explanation: Explanation) -> None:
        """Look at the explanation of a text, with this part of unknown tokens."""
        if unknown > _UNKNOWN:
            self._unknown.append(place)
        e = explanation
        if e.output_name == "probability" and e.output > _SATURATED:
            self._saturated.append(place)

    def warn(self) -> None:
        """Warn of what was found."""
        if self._unknown:
            warn(
                f"{self._told(self._unknown)} more than {_UNKNOWN:.0%} tokens that the tokenizer does not know: is the "
                "model made for this language?"
            )
        if self._saturated:
            warn(
                f"{self._told(self._saturated)} a probability above {_SATURATED}, which hardly moves, so that most of "
                "it is there without attention to words: output='log-odds' explains what it saturates from."
            )

    def _told(self, places: list[int]) -> str:
        if self._count == 1:
            return "The text has"
        return f"{len(places)} of {self._count} texts (the first is text {min(places)}) have"
