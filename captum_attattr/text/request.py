"""Requests for explanations: texts, second texts and targets, one each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from captum_attattr.arguments import all_or_each, one_each

Target = int | str | None


@dataclass(frozen=True)
class Request:
    """Texts to explain, with their second texts and targets, one each."""

    texts: list[str]
    pairs: list[str] | None
    targets: list[Target]

    @classmethod
    def from_arguments(cls, text: Any, text_pair: Any = None, target: Any = None) -> Request:
        """Make it from the arguments of :func:`explain`.

        Raises:
            ValueError: A text is empty, or the numbers of texts, second texts and targets differ.
            TypeError: A text is no string.
        """
        texts = _texts(text, "text")
        pairs = None
        if text_pair is not None:
            pairs = one_each("second texts", _texts(text_pair, "text_pair"), "texts", len(texts))
        return cls(texts, pairs, _targets(target, len(texts)))

    def select(self, places: Sequence[int]) -> Request:
        """Return a request for some of the texts."""
        pairs = None if self.pairs is None else [self.pairs[place] for place in places]
        return Request([self.texts[place] for place in places], pairs, [self.targets[place] for place in places])


def _texts(given: Any, name: str) -> list[str]:
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a string or a list of strings, got {type(given).__name__}.")
    texts = [given] if isinstance(given, str) else list(given)
    for place, text in enumerate(texts):
        which = name if isinstance(given, str) else f"{name} {place}"
        if not isinstance(text, str):
            raise TypeError(f"{which} is a {type(text).__name__}, expected a string.")
        if not text.strip():
            raise ValueError(f"{which} is empty: there is nothing to explain.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{which} is not valid Unicode: was it read with the right encoding?")
    if not texts:
        raise ValueError(f"{name} is an empty list: give at least one text.")
    return texts


def _targets(given: Any, count: int) -> list[Target]:
    targets = all_or_each("targets", given, "texts", count)
    for target in targets:
        if not isinstance(target, Target):
            raise TypeError(f"A target must be a label's number or name, or None, got {type(target).__name__}.")
    return targets
