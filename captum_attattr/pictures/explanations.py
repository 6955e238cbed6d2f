"""Picture of an explanation: the sentence, what the output's token reads, words to words, heads, and layers."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_attattr.arguments import check_count
from captum_attattr.colours import AGAINST, FOR
from captum_attattr.pictures.fonts import families_for, use_fonts
from captum_attattr.pictures.layers import draw_layers
from captum_attattr.pictures.sentence import draw_sentence
from captum_attattr.pictures.sheet import Sheet
from captum_attattr.pictures.signed_map import (
    letters,
    lowest_name,
    name_rows_and_columns,
    number_heads,
    side_of,
    signed_map,
    strongest,
    widest_name,
)
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.overview import Overview, number, signed

_WIDTH, _MARGIN, _GAP = 10.5, 0.15, 0.55
"""Inches: the least width, the margin around everything, and the space between parts, with their titles."""
_BARS, _BAR, _NARROW = 3.0, 0.24, 0.12
"""Inches: width of the bars, height of one, and of each above ``_WIDE``."""
_WIDE = 20
_COLOUR_BAR, _AXIS_NAME = 0.8, 0.4
_CELL = 0.2
_NUMBERED = 40
"""With at most so many bars each has its number."""


def visualize_explanation(
    explanation: Explanation, figure: Figure | None = None, *, pieces: bool = False, most: int = 60
) -> tuple[Figure, list[Axes]]:
    """Draw what acts together: the sentence, what the output's token reads, words to words, and the heads.

    The words' colours are what they receive from all queries, by all heads of all layers. The bars are what the token
    that the output reads ([CLS], or a decoder's last one) takes from each word, and the map is how words act on words:
    without the tokens that the tokenizer added, on a scale of its own. Purple raises the explained output, orange
    lowers it. Where the explanation holds layerwise attributions, each layer has a map as well, on its own scale, since
    these do not add up over layers.

    Args:
        explanation: The explanation.
        figure: An empty figure to draw into; by default a new one whose size fits.
        pieces: Show the tokenizer's pieces, not words.
        most: Maximum number of bars, rows and columns: of longer texts the strongest are drawn, and the titles say so.

    Returns:
        The figure and its axes: sentence, bars, map, heads, and a map for each layer. Works without a display.

    Raises:
        ValueError: ``most`` is below 1.

    Example:
        >>> from captum_attattr import explain, visualize_explanation
        >>> figure, (sentence, reads, between, heads) = visualize_explanation(explain("A warm, funny film."))
        >>> reads.get_title(loc="left")
        'What [CLS] reads: +3.79'
    """
    check_count("most", most)
    view = Overview(explanation if pieces else explanation.words)
    families = families_for([*view.explanation.tokens, view.answer, view.sum_of_parts])
    sheet = Sheet(FigureCanvasAgg(Figure(dpi=130)).figure if figure is None else figure, families)
    sentence, reads, between = (sheet.add(name) for name in ("sentence", "reads", "between"))
    bars = _draw_reads(view, reads, most)
    side = _draw_between(view, between, most)
    for axes in (reads, between):
        use_fonts(families, axes)
    names = [widest_name(axes) + 0.15 for axes in (reads, between)]
    map_left = _MARGIN + names[0] + _BARS + _AXIS_NAME + names[1]
    width = max(_WIDTH, map_left + side + _COLOUR_BAR + _MARGIN)
    top = _title(sheet, view, width)
    e, inner = view.explanation, width - 2 * _MARGIN
    high = draw_sentence(sentence, e.tokens, e.spans, view.received.numpy(), inner, families)
    sheet.put(sentence, _MARGIN, top, inner, high)
    top += high + _GAP
    sheet.put(reads, _MARGIN + names[0], top, _BARS, bars)
    sheet.put(between, map_left, top, side, side)
    heads, low = _draw_heads(sheet, view, _MARGIN + names[0], top + bars + _AXIS_NAME + _GAP)
    top = max(low, top + side + lowest_name(between) + _AXIS_NAME)
    apart = e.layerwise or (e if e.sums_only_rank else None)
    maps = list[Axes]()
    if apart is not None:
        top, maps = draw_layers(sheet, apart, (_MARGIN + 0.1, top + _GAP, inner), most)
    sheet.fit(width, top + _MARGIN, resize=figure is None)
    return sheet.figure, [sentence, reads, between, heads, *maps]


def _title(sheet: Sheet, view: Overview, width: float) -> float:
    """Write what is explained, and what the colours mean; return the height."""
    lines = wrap(f"{view.answer}: {view.sum_of_parts}", int(width * 9.5))
    what = view.explanation.output_name
    legend = (
        f"Colours: what a word receives; purple raises the {what}, orange lowers it; the darkest is "
        f"{number(float(view.received.abs().max()))}."
    )
    sheet.write("\n".join(lines), _MARGIN, 0.12, fontsize=12.5, fontweight="bold")
    after = 0.12 + 0.24 * len(lines)
    sheet.write(legend, _MARGIN, after + 0.03, fontsize=8.5, color="#55535e")
    return after + 0.3


def _draw_reads(view: Overview, axes: Axes, most: int) -> float:
    """Draw what the output's token reads; return the height in inches."""
    tokens, scores = view.explanation.tokens, view.reads.numpy()
    places = strongest(np.abs(scores), most)
    axes.barh(range(len(places)), scores[places], color=[FOR if scores[place] > 0 else AGAINST for place in places])
    high = max(_BAR * min(len(places), _WIDE) + _NARROW * max(len(places) - _WIDE, 0), 4 * _BAR)
    names = [tokens[place] for place in places]
    axes.set_yticks(range(len(places)), names, fontsize=letters(high, max(len(places), 1)), parse_math=False)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(ylim=(len(places) - 0.4, -0.6))
    axes.axvline(0, color="black", linewidth=0.6)
    axes.margins(x=0.22 if len(places) <= _NUMBERED else 0.05)
    for row, place in enumerate(places) if len(places) <= _NUMBERED else ():
        score = float(scores[place])
        axes.annotate(
            signed(score), (score, row), xytext=(3 if score >= 0 else -3, 0), textcoords="offset points", fontsize=7.5,
            va="center", ha="left" if score >= 0 else "right", color="#55535e",
        )  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    title = f"What {view.reader_name} reads: {signed(float(scores.sum()))}"
    axes.set_title(title + _of_all(len(places), len(scores)), fontsize=10, loc="left", parse_math=False)
    return high


def _draw_between(view: Overview, axes: Axes, most: int) -> float:
    """Draw the map from words to words; return its side in inches."""
    scores = view.between.numpy()
    tokens = view.explanation.tokens
    if not scores.size:
        axes.set_axis_off()
        axes.set_title("Between words: there is one word only", fontsize=10, loc="left")
        return side_of(1)
    rows, columns = strongest(np.abs(scores).sum(1), most), strongest(np.abs(scores).sum(0), most)
    side = side_of(len(columns))
    part = scores[np.ix_(rows, columns)]
    signed_map(part, axes, inches=side)
    queries, keys = (
        [tokens[all_of[place]] for place in some] for all_of, some in ((view.queries, rows), (view.own, columns))
    )
    name_rows_and_columns(axes, queries, keys, letters(side, len(columns)))
    _part_texts(view, axes, [view.queries[row] for row in rows], [view.own[column] for column in columns])
    title = (
        f"Between words: net {signed(float(scores.sum()))}, {view.part_between:.0%} of all magnitude; darkest "
        f"{number(float(np.abs(part).max()))}"
    )
    axes.set_title(title + _of_all(len(columns), len(view.own)), fontsize=10, loc="left")
    return side


def _part_texts(view: Overview, axes: Axes, queries: list[int], keys: list[int]) -> None:
    """Draw lines where the second text of a pair begins."""
    second = view.explanation.second_text_start
    for places, draw in ((queries, axes.axhline), (keys, axes.axvline)):
        before = sum(second is not None and place < second for place in places)
        if 0 < before < len(places):
            draw(before - 0.5, color="#55535e", linewidth=0.8, linestyle=":")


def _of_all(shown: int, count: int) -> str:
    return f"\n(the {shown} strongest of {count} words)" if shown < count else ""


def _draw_heads(sheet: Sheet, view: Overview, left: float, top: float) -> tuple[Axes, float]:
    """Draw the heads; return the axes, and where they end."""
    scores = view.explanation.head_scores().numpy()
    cell = min(_CELL, (_BARS - 0.6) / scores.shape[1])
    axes = sheet.add("heads")
    signed_map(scores, axes, inches=cell * scores.shape[1])
    number_heads(axes, view.explanation.layers, scores.shape[1])
    axes.tick_params(labelsize=7)
    axes.set_title("Heads", fontsize=10, loc="left")
    sheet.put(axes, left, top, cell * scores.shape[1], cell * scores.shape[0])
    return axes, top + cell * scores.shape[0] + _AXIS_NAME
