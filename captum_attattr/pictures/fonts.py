"""Fonts that have the characters of a text: matplotlib draws a box where the first font of its list has none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from matplotlib import font_manager, rcParams
from matplotlib.artist import Artist
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from captum_attattr.warned import warn

_OF_BOXES = "Last Resort High-Efficiency"
"""A font of matplotlib's that shows a box for every character, by its script."""
_NOT_DRAWN = frozenset("\u200b\u200c\u200d\ufe0e\ufe0f\u00ad\n\t ")


def use_fonts(families: Sequence[str], artists: Artist) -> None:
    """Let all texts among some artists use these fonts for characters that the present one lacks."""
    for text in artists.findobj(Text) if families else ():
        text.set_fontfamily([*rcParams["font.family"], *families])
        text.set_fontweight("normal")  # which all fonts have


def families_for(texts: Iterable[str]) -> list[str]:
    """Return names of installed fonts that together have the characters which the present font lacks.

    Warns:
        UserWarning: No installed font has some of the characters.
    """
    missing = set("".join(texts)) - _NOT_DRAWN - _characters(font_manager.findfont(font_manager.FontProperties()))
    families = list[str]()
    for name, path in _installed() if missing else ():
        found = missing & _characters(path)
        if found:
            families.append(name)
            missing -= found
        if not missing:
            break
    if missing:
        warn(
            f"No installed font has {len(missing)} of the characters ({_scripts(missing)}): the picture shows boxes in "
            "their place. Install a font for them, such as one of Noto's."
        )
    return [*families, _OF_BOXES] if missing and _OF_BOXES in font_manager.get_font_names() else families


@cache
def _installed() -> list[tuple[str, str]]:
    """Return names and files of the fonts, one file a name: the upright one of normal weight if there is one."""
    fonts = [font for font in font_manager.fontManager.ttflist if font.name != _OF_BOXES]
    plain = sorted(fonts, key=lambda font: (font.style != "normal", abs(_weight(font.weight))))
    files: dict[str, str] = {}
    for font in plain:
        files.setdefault(font.name, font.fname)
    return sorted(files.items(), key=lambda one: (not one[0].startswith(("DejaVu", "Noto")), one[0]))


def _weight(weight: object) -> int:
    return (weight if isinstance(weight, int) else 400) - 400


@cache
def _characters(path: str) -> frozenset[str]:
    """Return the characters of a font; none if it cannot be drawn, such as one of coloured bitmaps."""
    try:
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except RuntimeError:
        return frozenset()


def _scripts(characters: Iterable[str]) -> str:
    """Name the scripts of characters, by the first words of their names in Unicode."""
    return ", ".join(sorted(set(_script(characters)))[:5])


def _script(characters: Iterable[str]) -> Iterator[str]:
    for character in characters:
        name = unicodedata.name(character, "unnamed")
        yield "emoji" if unicodedata.category(character) == "So" else name.split()[0].capitalize()
