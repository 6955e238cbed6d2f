"""Words and other units of a text, in tokens: which pieces are shown as one, and the sums over them.

A tokenizer cuts words into pieces (word pieces, byte pairs, SentencePiece), and characters into bytes. Pieces are
joined unless a word boundary of Unicode (UAX #29) is between them, so that a unit is a word, a number, a sign, a
character of Chinese, or an emoji with all its parts. Attributions of a unit are sums over its pieces, as queries and as
keys, so that all sums stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import regex
import torch
from torch import Tensor

Group = str | tuple[int, int]
"""Words of the text, or the numbers of its first character and of the one after its last."""

_NO_SEGMENT = -1
_NEW_LINE = "\u21b5"


class Span(NamedTuple):
    """The characters ``start`` to ``stop`` of the text (``part`` 0) or of its second text (``part`` 1)."""

    part: int
    start: int
    stop: int


class Unit(NamedTuple):
    """A token, or neighbouring ones that are shown as one: their positions, their text and where it is."""

    tokens: range
    name: str
    span: Span | None


def word_units(texts: Sequence[str], tokens: Sequence[str], spans: Sequence[Span | None]) -> list[Unit]:
    """Return the words.

    Args:
        texts: The text, and the second one of a pair.
        tokens: The tokens as text; a piece that continues a word begins with ##.
        spans: Where each token is in the texts; None for those that are not in them, such as [CLS]. Empty if it is not
            known; then pieces with ## are joined to what is before them.
    """
    if not spans:
        return _by_marks(tokens)
    segments = [_segments(text) for text in texts]
    covered = [set[int]() if span is None else _covered(texts[span.part], segments[span.part], span) for span in spans]
    starts = [0] + [place for place in range(1, len(tokens)) if not _continues(spans, covered, place)]
    return [_unit(texts, tokens, spans, range(*ends)) for ends in pairwise([*starts, len(tokens)])]


def group_units(
    texts: Sequence[str], tokens: Sequence[str], spans: Sequence[Span | None], groups: Sequence[Group]
) -> list[Unit]:
    """Return units of the user's own, and the words outside of them.

    Args:
        texts, tokens, spans: See :func:`word_units`.
        groups: Parts of the texts in their order, as strings or as character numbers of the first text.

    Raises:
        ValueError: It is not known where the tokens are; a group is not in the texts, is not in order or holds no
            token.
        TypeError: A group is neither a string nor two numbers.
    """
    if not spans:
        raise ValueError("This tokenizer does not tell where its tokens are in the text, so they cannot be grouped.")
    places = list(_places(texts, groups))
    owners = [_owner(span, places) for span in spans]
    for number, place in enumerate(places):
        if number not in owners:
            raise ValueError(f"The group {texts[place.part][place.start : place.stop]!r} holds no token of its own.")
    found = list[Unit]()
    for unit in word_units(texts, tokens, spans):
        for some in _runs([owners[place] for place in unit.tokens], unit.tokens.start):
            grouped = found and owners[some.start] is not None and owners[found[-1].tokens.start] == owners[some.start]
            tokens_of = range(found.pop().tokens.start, some.stop) if grouped else some
            found.append(_unit(texts, tokens, spans, tokens_of))
    return found


def sum_over_pieces(matrices: Tensor, units: Sequence[Unit]) -> Tensor:
    """Sum matrices (..., query, key) over the queries and keys of each unit."""
    return _summed(_summed(matrices, units, -2), units, -1)


def attention_of_units(attention: Tensor, units: Sequence[Unit]) -> Tensor:
    """Return how units look at units: the sum over the keys of a unit, the mean over its queries."""
    counts = attention.new_tensor([len(unit.tokens) for unit in units])
    return sum_over_pieces(attention, units) / counts.unsqueeze(-1)


def _summed(values: Tensor, units: Sequence[Unit], dim: int) -> Tensor:
    owners = torch.tensor([number for number, unit in enumerate(units) for _ in unit.tokens], device=values.device)
    shape = list(values.shape)
    shape[dim] = len(units)
    return values.new_zeros(shape).index_add_(dim, owners, values)


def _by_marks(tokens: Sequence[str]) -> list[Unit]:
    starts = [0] + [place for place in range(1, len(tokens)) if not tokens[place].startswith("##")]
    units = [range(*ends) for ends in pairwise([*starts, len(tokens)])]
    return [Unit(unit, "".join(_whole(tokens[place], place > unit.start) for place in unit), None) for unit in units]


def _whole(piece: str, goes_on: bool) -> str:
    return piece.removeprefix("##") if goes_on else piece


def _segments(text: str) -> list[int]:
    """Number the segments between word boundaries, one number a character; white space has none."""
    boundaries = sorted({0, len(text), *(match.start() for match in regex.finditer(r"(?w)\b", text))})
    numbers = [_NO_SEGMENT] * len(text)
    for number, (start, stop) in enumerate(pairwise(boundaries)):
        if text[start:stop].strip():
            numbers[start:stop] = [number] * (stop - start)
    return numbers


def _covered(text: str, segments: Sequence[int], span: Span) -> set[int]:
    """Return the segments in which a token has characters; a space by itself belongs to what follows it."""
    found = set(segments[span.start : span.stop]) - {_NO_SEGMENT}
    if found or "\n" in text[span.start : span.stop]:
        return found
    after = next((number for number in segments[span.stop :] if number != _NO_SEGMENT), None)
    return set() if after is None else {after}


def _continues(spans: Sequence[Span | None], covered: Sequence[set[int]], place: int) -> bool:
    before, here = spans[place - 1], spans[place]
    together = before is not None and here is not None and before.part == here.part
    return together and bool(covered[place - 1] & covered[place])


def _unit(texts: Sequence[str], tokens: Sequence[str], spans: Sequence[Span | None], places: range) -> Unit:
    known = [span for place in places if (span := spans[place]) is not None]
    if not known:
        return Unit(places, tokens[places.start], None)
    span = Span(known[0].part, min(one.start for one in known), max(one.stop for one in known))
    written = texts[span.part][span.start : span.stop]
    return Unit(places, " ".join(written.split()) or (_NEW_LINE if "\n" in written else tokens[places.start]), span)


def _places(texts: Sequence[str], groups: Sequence[Group]) -> Iterator[Span]:
    part, after = 0, 0
    for group in groups:
        if isinstance(group, str):
            start = texts[part].find(group, after) if group else -1
            if start < 0 and part + 1 < len(texts) and group:
                part, after = part + 1, 0
                start = texts[part].find(group)
            if start < 0:
                raise ValueError(f"The group {group!r} is not in the text after the groups before it.")
            stop = start + len(group)
        else:
            start, stop = _two_numbers(group)
            if part or not after <= start < stop <= len(texts[0]):
                raise ValueError(
                    f"The group {group!r} must be characters of the text, which has {len(texts[0])}, after the groups "
                    "before it."
                )
        after = stop
        yield Span(part, start, stop)


def _two_numbers(group: object) -> tuple[int, int]:
    if isinstance(group, (tuple, list)) and len(group) == 2:
        start, stop = group
        if all(isinstance(number, int) and not isinstance(number, bool) for number in group):
            return start, stop
    raise TypeError(f"A group must be a part of the text, or the numbers of its ends (start, stop), got {group!r}.")


def _owner(span: Span | None, places: Sequence[Span]) -> int | None:
    """Return the number of the group in which the middle of a token is."""
    if span is None:
        return None
    middle = (span.start + span.stop - 1) / 2
    inside = (place.part == span.part and place.start <= middle < place.stop for place in places)
    return next((number for number, is_so in enumerate(inside) if is_so), None)


def _runs(owners: Sequence[int | None], first: int) -> Iterator[range]:
    """Yield the parts of a word that belong to one group, or to none."""
    cuts = [0] + [place for place in range(1, len(owners)) if owners[place] != owners[place - 1]]
    for start, stop in pairwise([*cuts, len(owners)]):
        yield range(first + start, first + stop)
