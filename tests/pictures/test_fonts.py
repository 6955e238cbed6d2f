"""Characters that matplotlib's own font lacks are drawn by an installed font that has them."""

from __future__ import annotations

import matplotlib
import pytest
from made_explanations import made
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captum_attattr import visualize_explanation
from captum_attattr.pictures import fonts


@pytest.fixture(autouse=True)
def forget():
    yield
    fonts._installed.cache_clear()


def one_text(words):
    figure = FigureCanvasAgg(Figure()).figure
    text = figure.text(0, 0, words)
    fonts.use_fonts(fonts.families_for(words), figure)
    return text


def test_what_the_usual_font_has_stays_in_it(recwarn):
    usual = matplotlib.rcParams["font.family"]
    assert one_text("Caf\u00e9 \u2192 \u0416").get_fontfamily() == usual
    assert not recwarn.list


def test_a_font_that_has_the_character_is_taken(monkeypatch):
    """Symbols that DejaVu Sans lacks and STIX has: both come with matplotlib."""
    have = {font.name: fonts._characters(font.fname) for font in font_manager.fontManager.ttflist}
    usual = fonts._characters(font_manager.findfont(font_manager.FontProperties()))
    character = min(have["STIXGeneral"] - usual)
    families = one_text(f"a {character}").get_fontfamily()
    assert any(character in have[name] for name in families[1:])


def test_a_script_without_a_font_is_named(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: [])
    with pytest.warns(UserWarning, match=r"No installed font has 3 of the characters \(Cjk, Devanagari\)"):
        one_text("\u96fb\u5f71 \u0905")


def test_the_picture_says_it_once(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: [])
    explanation = made(5, tokens=["[CLS]", "\u96fb", "\u5f71", "!", "[SEP]"])
    with pytest.warns(UserWarning, match="No installed font") as caught:
        visualize_explanation(explanation)
    assert sum("No installed font" in str(one.message) for one in caught) == 1
