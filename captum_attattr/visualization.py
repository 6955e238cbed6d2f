"""Pictures of an explanation, in matplotlib: which heads count, and which token looks at which."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_attattr.explanation import Explanation

# Purple speaks for, orange against, white is zero: told apart by all common kinds of colour vision.
_COLOURS, _FOR, _AGAINST = "PuOr", "#542788", "#b35806"
_MOST_TOKENS = 128
_LEFT_INCHES = 5.4


def visualize_explanation(explanation: Explanation, figure: Figure | None = None) -> tuple[Figure, list[Axes]]:
    """Draw the layer-by-head map, the strongest token pairs, and the map of all pairs, summed over layers and heads.

    Colours are signed and symmetric about zero, in the unit of the explained output.

    Args:
        explanation: What to draw. Of more than 128 tokens the 128 with the largest scores are drawn, in order.
        figure: A figure to draw into; by default a new one whose size suits the number of tokens.

    Returns:
        The figure and its axes: heads, strongest pairs, all pairs. Works without a display.

    Example:
        >>> from captum_attattr import explain, visualize_explanation
        >>> figure, (heads, strongest, pairs) = visualize_explanation(explain("A warm, funny film."))
        >>> heads.get_xlabel(), pairs.get_ylabel()
        ('head', 'query: the token that looks')
    """
    places = _strongest_tokens(explanation)
    side = max(5.0, (0.26 if len(places) <= 30 else 0.17) * len(places))
    if figure is None:
        figure = Figure(figsize=(_LEFT_INCHES + side + 2.0, side + 1.6), layout="constrained", dpi=130)
    grid = figure.add_gridspec(2, 2, width_ratios=[_LEFT_INCHES, side + 2.0], height_ratios=[1, max(1.0, side / 4)])
    heads, strongest = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    pairs = figure.add_subplot(grid[:, 1])
    _draw_heads(explanation, figure, heads)
    _draw_strongest(explanation, strongest, k=max(8, int(2.5 * side)))
    _draw_pairs(explanation, places, figure, pairs)
    figure.suptitle(_title(explanation), fontsize=11, wrap=True)
    return figure, [heads, strongest, pairs]


def _draw_heads(explanation: Explanation, figure: Figure, axes: Axes) -> None:
    scores = explanation.head_scores().numpy()
    _signed_map(scores, figure, axes)
    axes.set_xticks(range(scores.shape[1]))
    axes.set_yticks(range(scores.shape[0]), [str(layer) for layer in explanation.layers])
    axes.tick_params(labelsize=8)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title("Share of each head", fontsize=10)


def _draw_strongest(explanation: Explanation, axes: Axes, k: int) -> None:
    found = explanation.top_pairs(k)
    tokens = [_plain(token) for token in explanation.tokens]
    names = [f"{tokens[pair.query]} \N{RIGHTWARDS ARROW} {tokens[pair.key]}" for pair in found]
    scores = [pair.score for pair in found]
    axes.barh(range(len(found)), scores, color=[_FOR if score > 0 else _AGAINST for score in scores])
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"share, {explanation.settings['output']}", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("Strongest pairs, query \N{RIGHTWARDS ARROW} key", fontsize=10)


def _draw_pairs(explanation: Explanation, places: np.ndarray, figure: Figure, axes: Axes) -> None:
    scores = explanation.pair_scores().numpy()[np.ix_(places, places)]
    _signed_map(scores, figure, axes)
    names = [_plain(explanation.tokens[place]) for place in places]
    size = 9 if len(places) <= 30 else 7.5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    left_out = len(explanation.tokens) - len(places)
    title = "Share of each token pair, all layers and heads" + (f" ({left_out} weak tokens left out)" * bool(left_out))
    axes.set(xlabel="key: the token looked at", ylabel="query: the token that looks")
    axes.set_title(title, fontsize=10)


def _signed_map(scores: np.ndarray, figure: Figure, axes: Axes) -> None:
    reach = float(np.abs(scores).max()) or 1.0
    image: Any = axes.imshow(scores, cmap=_COLOURS, vmin=-reach, vmax=reach, aspect="equal", interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.ax.tick_params(labelsize=8)


def _strongest_tokens(explanation: Explanation) -> np.ndarray:
    scores = explanation.pair_scores().abs()
    strength = (scores.sum(0) + scores.sum(1)).numpy()
    return np.sort(np.argsort(-strength, kind="stable")[:_MOST_TOKENS])


def _title(explanation: Explanation) -> str:
    text = explanation.text if explanation.text_pair is None else f"{explanation.text} | {explanation.text_pair}"
    text = text if len(text) <= 120 else text[:117] + "..."
    kind = explanation.settings["output"]
    return _plain(f"{text}\n{kind} of {explanation.label!r}: {explanation.output:.3f}")


def _plain(text: str) -> str:
    """A dollar sign would begin mathematics."""
    return text.replace("$", r"\$")
