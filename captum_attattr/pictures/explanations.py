"""Picture of an explanation, by matplotlib: attributions of heads and of token pairs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.pictures.signed_map import (
    MOST_TOKENS,
    letters,
    name_rows_and_columns,
    number_heads,
    side_of,
    signed_map,
    strongest,
    widest_name,
)
from captum_attattr.text.explanation import Explanation, TokenPair

_MOST_BARS = 24
# Inches: the left column, and the margins for titles, axis names and colour bars with their numbers.
_LEFT, _TITLES, _NAME, _COLOUR_BAR = 3.8, 0.95, 0.5, 0.85


def visualize_explanation(explanation: Explanation, figure: Figure | None = None) -> tuple[Figure, list[Axes]]:
    """Draw the layer-by-head map, the strongest token pairs, and the map of all pairs, summed over layers and heads.

    Colours are signed and symmetric about zero, in the unit of the explained output.

    Args:
        explanation: The explanation. Of more than 128 tokens the 128 with the largest scores are drawn, in order.
        figure: An empty figure to draw into; by default a new one whose size fits the number of tokens.

    Returns:
        The figure and its axes: heads, strongest pairs, all pairs. Works without a display.

    Example:
        >>> from captum_attattr import explain, visualize_explanation
        >>> figure, (heads, strongest, pairs) = visualize_explanation(explain("A warm, funny film."))
        >>> heads.get_xlabel(), pairs.get_ylabel()
        ('head', 'query: the token that looks')
    """
    own = figure is None
    figure = FigureCanvasAgg(Figure(dpi=130)).figure if figure is None else figure
    figure.set_layout_engine("none")  # _place sets all positions, by the sizes of the labels
    places = _strongest_tokens(explanation)
    side = side_of(len(places))
    bars = _bars(explanation, int(2.5 * side))
    heads, best, pairs = axes = [figure.add_axes((0, 0, 1, 1), label=name) for name in ("heads", "bars", "pairs")]
    _draw_heads(explanation, heads)
    _draw_strongest(explanation, bars, best)
    _draw_pairs(explanation, places, side, pairs)
    _place(figure, axes, explanation.attributions.shape[:2], side, 0.24 * max(len(bars), 4), resize=own)
    title = _title(explanation, min(110, int(10 * figure.get_figwidth())))
    figure.suptitle(title, fontsize=11, parse_math=False, y=1 - 0.1 / figure.get_figheight())
    return figure, axes


def _place(figure: Figure, axes: list[Axes], grid: tuple[int, ...], side: float, bars: float, *, resize: bool) -> None:
    """Set the positions of the axes; in a figure that must keep its size, scale all of them."""
    heads, best, pairs = axes
    layers, columns = grid
    cell = min(_LEFT / columns, 3.4 / layers)
    left, label = widest_name(best, figure.dpi) + 0.2, widest_name(pairs, figure.dpi) + 0.1
    start = left + _COLOUR_BAR + _NAME + label
    width, height = start + _LEFT + side + _COLOUR_BAR, _TITLES + max(side + label, cell * layers + 1.1 + bars) + _NAME
    if resize:
        figure.set_size_inches(width, height)
    across, high = figure.get_size_inches()
    scale = min((across - width) / (_LEFT + side), (high - height) / max(side, cell * layers + bars)) + 1
    scale = max(scale, 0.1)

    def put(one: Axes, x: float, top: float, wide: float, tall: float) -> None:
        wide, tall = wide * scale, tall * scale
        one.set_position((x / across, 1 - (top + tall) / high, wide / across, tall / high))

    put(heads, left, _TITLES, cell * columns, cell * layers)
    put(best, left, _TITLES + scale * cell * layers + 1.1, _LEFT, bars)
    put(pairs, start + scale * _LEFT, _TITLES, side, side)


def _draw_heads(explanation: Explanation, axes: Axes) -> None:
    scores = explanation.head_scores().numpy()
    signed_map(scores, axes, inches=min(_LEFT, 3.4 * scores.shape[1] / scores.shape[0]))
    number_heads(axes, explanation.layers, scores.shape[1])
    axes.tick_params(labelsize=8)
    axes.set_title("Attribution of each head", fontsize=10)


def _draw_strongest(explanation: Explanation, pairs: list[TokenPair], axes: Axes) -> None:
    tokens = explanation.token_names
    names = [f"{tokens[pair.query]} \N{RIGHTWARDS ARROW} {tokens[pair.key]}" for pair in pairs]
    scores = [pair.score for pair in pairs]
    axes.barh(range(len(pairs)), scores, color=[FOR if score > 0 else AGAINST for score in scores])
    axes.set_yticks(range(len(pairs)), names, fontsize=8, parse_math=False)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"attribution, {explanation.output_name}", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_ylim(max(len(pairs), 4) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("Strongest pairs, query \N{RIGHTWARDS ARROW} key", fontsize=10)


def _draw_pairs(explanation: Explanation, places: np.ndarray, side: float, axes: Axes) -> None:
    scores = explanation.pair_scores().numpy()[np.ix_(places, places)]
    signed_map(scores, axes, inches=side)
    names = [explanation.tokens[place] for place in places]
    name_rows_and_columns(axes, names, names, letters(side, len(places)))
    left_out = len(explanation.tokens) - len(places)
    title = "Attribution of each token pair, summed over layers and heads"
    axes.set_title(title + (f" ({left_out} weak tokens left out)" * bool(left_out)), fontsize=10)


def _strongest_tokens(explanation: Explanation) -> np.ndarray:
    scores = explanation.pair_scores().abs()
    return strongest((scores.sum(0) + scores.sum(1)).numpy(), MOST_TOKENS)


def _bars(explanation: Explanation, k: int) -> list[TokenPair]:
    """Return the strongest pairs, without those whose bars would be too short to see."""
    pairs = explanation.top_pairs(min(k, _MOST_BARS))
    return [pair for pair in pairs if abs(pair.score) >= 0.01 * abs(pairs[0].score)]


def _title(explanation: Explanation, width: int) -> str:
    text = explanation.text if explanation.text_pair is None else f"{explanation.text} | {explanation.text_pair}"
    text = " ".join(text.split())
    text = text if len(text) <= width else text[: width - 3] + "..."
    return f"{text}\n{explanation.explained}: {explanation.output:.3f} (purple speaks for it, orange against it)"
