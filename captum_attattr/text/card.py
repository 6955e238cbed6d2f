"""A summary of an explanation for notebooks: plain HTML without scripts, small enough to be saved with every cell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from captum_attattr.colours import colour, ink

_MOST_HEADS = 400
_SMALL = "font-size: 85%; opacity: 0.75"


class Prediction(NamedTuple):
    """The predicted label and its probability."""

    label: str
    probability: float


def card(
    prediction: Prediction | None,
    explained: str,
    output: float,
    tokens: Sequence[tuple[str, float]],
    pairs: Sequence[tuple[str, str, float]],
    heads: Sequence[tuple[int, Sequence[float]]],
) -> str:
    """Make the HTML: prediction, sentence with the score of each token, strongest pairs, and map of heads.

    Args:
        prediction: None if the model predicts no label.
        explained, output: The name of F and its value.
        tokens: The tokens, each with its score.
        pairs: Names of query and key, and the pair's score.
        heads: Layer numbers, each with a score for every head.
    """
    columns = [("Strongest pairs", _pairs(pairs)), ("Heads", _heads(heads))]
    below = "".join(
        f'<div><div style="{_SMALL}; margin-bottom: 3px">{title}</div>{content}</div>'
        for title, content in columns
        if content
    )
    return (
        f'<div style="font-family: system-ui, sans-serif; line-height: 1.6">{_heading(prediction, explained, output)}'
        f'<div style="margin: 5px 0">{_tokens(tokens)}</div>'
        f'<div style="display: flex; flex-wrap: wrap; gap: 8px 40px">{below}</div></div>'
    )


def _heading(prediction: Prediction | None, explained: str, output: float) -> str:
    if prediction is None:
        return f"<div>{html.escape(explained)} <b>{output:.4f}</b></div>"
    return (
        f"<div>prediction <b>{html.escape(prediction.label)}</b> ({prediction.probability:.3f}), "
        f"explained: {html.escape(explained)}: {output:.4f} "
        f'<span style="{_SMALL}">(<b style="color: {colour(1)}; background: #fff">purple</b> speaks for it, '
        f'<b style="color: {colour(-1)}; background: #fff">orange</b> against it)</span></div>'
    )


def _tokens(tokens: Sequence[tuple[str, float]]) -> str:
    most = _largest([score for _, score in tokens])
    return " ".join(
        f'<span title="receives {score:+.4f}" style="{_painted(score / most)}; padding: 1px 5px; border-radius: 4px">'
        f"{html.escape(token)}</span>"
        for token, score in tokens
    )


def _pairs(pairs: Sequence[tuple[str, str, float]]) -> str:
    rows = "".join(
        f'<tr><td style="text-align: left">{html.escape(query)} &rarr; {html.escape(key)}</td>'
        f"<td>{score:+.4f}</td></tr>"
        for query, key, score in pairs
    )
    return f"<table>{rows}</table>" if rows else ""


def _heads(heads: Sequence[tuple[int, Sequence[float]]]) -> str:
    """Make the map of heads, with the last layer on top as in all pictures; empty if there are too many heads."""
    if sum(len(row) for _, row in heads) > _MOST_HEADS:
        return ""
    most = _largest([score for _, row in heads for score in row])
    body = "".join(
        f'<tr><td style="{_SMALL}; padding: 0 6px">layer {layer}</td>'
        + "".join(
            f'<td title="layer {layer}, head {head}: {score:+.4f}" '
            f'style="{_painted(score / most)}; width: 18px; height: 16px; padding: 0; border: 1px solid #eee"></td>'
            for head, score in enumerate(row)
        )
        + "</tr>"
        for layer, row in reversed(heads)
    )
    return f'<table style="border-collapse: collapse">{body}</table>'


def _largest(scores: Sequence[float]) -> float:
    return max((abs(score) for score in scores), default=0.0) or 1.0


def _painted(part: float) -> str:
    return f"background: {colour(part)}; color: {ink(part)}"
