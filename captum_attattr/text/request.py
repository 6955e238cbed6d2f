"""Requests for explanations: texts, second texts and targets, one each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
        pairs = None if text_pair is None else _texts(text_pair, "text_pair")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"Got {len(pairs)} second texts for {len(texts)} texts: give one each.")
        return cls(texts, pairs, _one_each(target, len(texts)))


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


def _one_each(target: Any, count: int) -> list[Target]:
    target = target.tolist() if hasattr(target, "tolist") else target  # tensors and arrays
    if target is None or isinstance(target, (int, str)):
        return [target] * count
    if not isinstance(target, Sequence):
        raise TypeError(f"target must be a label's number or name, or a list of them, got {type(target).__name__}.")
    if len(target) != count:
        raise ValueError(f"Got {len(target)} targets for {count} texts: give one each, or one for all.")
    return list(target)
