"""A trigger: words with the places where they stood; put into texts, written to files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, overload

from pydantic import Field

from captum_attattr.files.records import Count, Record, Sealed, seal, unseal
from captum_attattr.files.writing import writing

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Trigger:
    """Words that a prediction rests on, with the places where they stood.

    Raises:
        ValueError: There are no words, or words, positions and parts do not fit together.

    Example:
        >>> from captum_attattr.triggers.extraction import Trigger
        >>> Trigger(("dull", "mess"), (0.25, 1.0), label="negative").score
        0.0
    """

    words: tuple[str, ...]
    """In the order in which they stood."""
    positions: tuple[float, ...]
    """Where each stood in its text: 0 the first word, 1 the last."""
    parts: tuple[int, ...] = ()
    """Which text of a pair each is from: 0 the first, 1 the second. Empty: all from the first."""
    label: str = ""
    """The class that the model predicted, and that the words speak for."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The token pairs, who looks at whom, special tokens and word pieces as they were."""
    shares: tuple[float, ...] = ()
    """Each pair's share in the probability of the class."""
    layer: int | None = None
    head: int | None = None
    source: str | None = None
    """The text that it was found in."""
    source_pair: str | None = None

    def __post_init__(self) -> None:
        for name in ("words", "positions", "parts", "shares"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "pairs", tuple((query, key) for query, key in self.pairs))
        object.__setattr__(self, "parts", self.parts or (0,) * len(self.words))
        if not self.words or not len(self.words) == len(self.positions) == len(self.parts):
            raise ValueError(
                f"A trigger needs words, and a position and a part for each: got {len(self.words)} words, "
                f"{len(self.positions)} positions and {len(self.parts)} parts."
            )
        if any(not isinstance(word, str) or not word.strip() for word in self.words):
            raise ValueError(f"The words of a trigger must be strings that are not empty, got {self.words}.")
        if not set(self.parts) <= {0, 1} or not all(0 <= position <= 1 for position in self.positions):
            raise ValueError(f"Positions must be from 0 to 1 and parts 0 or 1, got {self.positions} and {self.parts}.")
        places = list(zip(self.parts, self.positions, strict=True))
        if places != sorted(places):
            raise ValueError(f"The words of a trigger must be in the order of their parts and positions, got {places}.")

    @property
    def score(self) -> float:
        """Sum of the pairs' shares."""
        return float(sum(self.shares))


class TriggerRecord(Record):
    """A trigger in a file."""

    words: list[str]
    positions: list[float]
    parts: list[int]
    label: str
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    shares: list[float]
    layer: Count | None
    head: Count | None
    source: str | None
    source_pair: str | None

    def made(self) -> Trigger:
        """The trigger.

        Raises:
            ValueError: Its parts do not fit together.
        """
        if len(self.shares) != len(self.pairs):
            raise ValueError(f"{len(self.pairs)} pairs have {len(self.shares)} shares")
        return Trigger(**self.model_dump())


class _Saved(Sealed):
    triggers: list[TriggerRecord]


@overload
def apply_trigger(text: str, trigger: Trigger, text_pair: None = ...) -> str: ...
@overload
def apply_trigger(text: str, trigger: Trigger, text_pair: str) -> tuple[str, str]: ...
def apply_trigger(text: str, trigger: Trigger, text_pair: str | None = None) -> str | tuple[str, str]:
    """Put a trigger's words into a text, or into a pair of texts, at the same relative positions.

    A word at position p goes to place round(p (n - 1)) of the n words of the result, counted from 0, or to the next
    free place. Words are what stands between white space: in scripts without it they go to the front or the end.

    Returns:
        The text, or both texts where ``text_pair`` is given. All else stays as it was, white space included.

    Raises:
        ValueError: A text is empty, or the trigger has words for a second text and there is none.

    Example:
        >>> from captum_attattr.triggers.extraction import Trigger, apply_trigger
        >>> trigger = Trigger(("dull", "mess"), (0.25, 1.0))
        >>> apply_trigger("I like it a lot", trigger)
        'I like dull it a lot mess'
    """
    texts = [text] if text_pair is None else [text, text_pair]
    if max(trigger.parts) >= len(texts):
        raise ValueError("The trigger has words for the second text of a pair: give text_pair.")
    for place, one in enumerate(texts):
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"A trigger needs a text to go into, got {one!r}.")
        own = [i for i, part in enumerate(trigger.parts) if part == place]
        texts[place] = _with_words(one, [trigger.words[i] for i in own], [trigger.positions[i] for i in own])
    return texts[0] if text_pair is None else (texts[0], texts[1])


def save_triggers(triggers: Sequence[Trigger], path: str | os.PathLike[str]) -> Path:
    """Write triggers to a JSON file.

    Raises:
        ValueError: The file cannot be written.
    """
    content = seal({"version": FORMAT_VERSION, "triggers": [asdict(trigger) for trigger in triggers]})
    with writing("The triggers", path) as file:
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path)


def load_triggers(path: str | os.PathLike[str]) -> list[Trigger]:
    """Read what :func:`save_triggers` wrote.

    Raises:
        ValueError: There is no such file, it is damaged, holds no triggers, or is of a newer version.
    """
    try:
        found = unseal(_Saved, Path(path).read_bytes(), FORMAT_VERSION)
        return [trigger.made() for trigger in found.triggers]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as saved triggers: {error}") from error


def _with_words(text: str, words: Sequence[str], positions: Sequence[float]) -> str:
    """The text with the words put in, in their order."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    end = len(text.rstrip())
    slots = _slots(positions, len(starts) + len(words))
    # From the last to the first, so that the places before stay what they are.
    for count, (word, slot) in reversed(list(enumerate(zip(words, slots, strict=True)))):
        if slot - count < len(starts):
            at = starts[slot - count]
            text = f"{text[:at]}{word} {text[at:]}"
        else:
            text = f"{text[:end]} {word}{text[end:]}"
    return text


def _slots(positions: Sequence[float], total: int) -> list[int]:
    """A place of its own for each position, among ``total``, in their order."""
    slots: list[int] = []
    for count, position in enumerate(positions):
        lowest = slots[-1] + 1 if slots else 0
        highest = total - (len(positions) - count)
        slots.append(min(max(round(position * (total - 1)), lowest), highest))
    return slots
