"""Triggers: words with their positions, how they are put into texts, and their files."""

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
from captum_attattr.files.writing import write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Trigger:
    """Words that a prediction rests on, with their positions in the text.

    Raises:
        ValueError: There are no words, or words, positions and parts do not fit together.

    Example:
        >>> from captum_attattr.triggers import Trigger
        >>> Trigger(("dull", "mess"), (0.25, 1.0), label="negative").score
        0.0
    """

    words: tuple[str, ...]
    """In the order of the text."""
    positions: tuple[float, ...]
    """Position of each word in its text: 0 for the first word, 1 for the last."""
    parts: tuple[int, ...] = ()
    """The text of a pair that each word is from: 0 the first, 1 the second. Empty: all from the first."""
    label: str = ""
    """The class that the model predicted."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The token pairs (query, key), special tokens and word pieces included."""
    shares: tuple[float, ...] = ()
    """The attribution of each pair for the probability of the class; named as in the files."""
    layer: int | None = None
    head: int | None = None
    source: str | None = None
    """The text in which the trigger was found."""
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
        """Sum of the pairs' attributions."""
        return float(sum(self.shares))


class TriggerRecord(Record):
    """The schema of a trigger in a file."""

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
        """Make the trigger.

        Raises:
            ValueError: Its fields do not fit together.
        """
        if len(self.shares) != len(self.pairs):
            raise ValueError(f"{len(self.pairs)} pairs have {len(self.shares)} attributions (shares)")
        return Trigger(**self.model_dump())


class _Saved(Sealed):
    triggers: list[TriggerRecord]


@overload
def apply_trigger(text: str, trigger: Trigger, text_pair: None = ...) -> str: ...
@overload
def apply_trigger(text: str, trigger: Trigger, text_pair: str) -> tuple[str, str]: ...
def apply_trigger(text: str, trigger: Trigger, text_pair: str | None = None) -> str | tuple[str, str]:
    """Put a trigger's words into a text, or into a pair of texts, at the same relative positions.

    A word at position p becomes word number round(p (n - 1)) of the n words of the result, counted from 0, or takes the
    next free place. Words are separated by white space; in scripts without it the trigger goes to the front or the end.

    Returns:
        The text, or both texts if ``text_pair`` is given. The rest, white space included, does not change.

    Raises:
        ValueError: A text is empty, or the trigger has words for a second text, which is missing.

    Example:
        >>> from captum_attattr.triggers import Trigger, apply_trigger
        >>> trigger = Trigger(("dull", "mess"), (0.25, 1.0))
        >>> apply_trigger("I like it a lot", trigger)
        'I like dull it a lot mess'
    """
    texts = [text] if text_pair is None else [text, text_pair]
    if max(trigger.parts) >= len(texts):
        raise ValueError("The trigger has words for the second text of a pair: give text_pair.")
    for place, one in enumerate(texts):
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"A trigger must be put into a text that is not empty, got {one!r}.")
        own = [i for i, part in enumerate(trigger.parts) if part == place]
        texts[place] = _with_words(one, [trigger.words[i] for i in own], [trigger.positions[i] for i in own])
    return texts[0] if text_pair is None else (texts[0], texts[1])


def save_triggers(triggers: Sequence[Trigger], path: str | os.PathLike[str]) -> Path:
    """Write triggers to a JSON file.

    Raises:
        ValueError: The file cannot be written.
    """
    content = seal({"version": FORMAT_VERSION, "triggers": [asdict(trigger) for trigger in triggers]})
    return write_text("The triggers", path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_triggers(path: str | os.PathLike[str]) -> list[Trigger]:
    """Read triggers that :func:`save_triggers` wrote.

    Raises:
        ValueError: There is no such file, or it is damaged, holds no triggers, or is of a newer version.
    """
    try:
        found = unseal(_Saved, Path(path).read_bytes(), FORMAT_VERSION)
        return [trigger.made() for trigger in found.triggers]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as saved triggers: {error}") from error


def _with_words(text: str, words: Sequence[str], positions: Sequence[float]) -> str:
    """Insert words into a text, in their order."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    end = len(text.rstrip())
    slots = _slots(positions, len(starts) + len(words))
    # From the last to the first, so that earlier positions stay valid.
    for count, (word, slot) in reversed(list(enumerate(zip(words, slots, strict=True)))):
        if slot - count < len(starts):
            at = starts[slot - count]
            text = f"{text[:at]}{word} {text[at:]}"
        else:
            text = f"{text[:end]} {word}{text[end:]}"
    return text


def _slots(positions: Sequence[float], total: int) -> list[int]:
    """Assign a different place, of ``total``, to each position, in their order."""
    slots: list[int] = []
    for count, position in enumerate(positions):
        lowest = slots[-1] + 1 if slots else 0
        highest = total - (len(positions) - count)
        slots.append(min(max(round(position * (total - 1)), lowest), highest))
    return slots
