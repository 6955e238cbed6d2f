"""A summary of an explanation for notebooks: plain HTML without scripts, small enough to be saved with every cell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_attattr.colours import colour, ink
from captum_attattr.text.overview import Overview

if TYPE_CHECKING:
    from captum_attattr.text.explanation import Explanation

_MOST_HEADS = 400
_MOST_ROWS = 6
_SMALL = "font-size: 85%; opacity: 0.75"


def card(explanation: Explanation) -> str:
    """Make the HTML: the answer, the sentence with the score of each word, what acts together, and the map of heads."""
    view = Overview(explanation.words)
    names = view.explanation.token_names
    reads = [(names[place], score) for place, score in view.strongest_reads(_MOST_ROWS)]
    pairs = [
        (f"{names[q]} \N{RIGHTWARDS ARROW} {names[k]}", score) for q, k, score in view.strongest_between(_MOST_ROWS)
    ]
    columns = [
        (f"{view.reader_name} reads", _rows(reads)),
        (f"Between words, {view.part_between:.0%} of all magnitude", _rows(pairs)),
        ("Heads", _heads(list(zip(explanation.layers, explanation.head_scores().tolist(), strict=True)))),
    ]
    below = "".join(
        f'<div><div style="{_SMALL}; margin-bottom: 3px">{html.escape(title)}</div>{content}</div>'
        for title, content in columns
        if content
    )
    tokens = list(zip(view.explanation.tokens, view.received.tolist(), strict=True))
    return (
        f'<div style="font-family: system-ui, sans-serif; line-height: 1.6">{_heading(view)}'
        f'<div style="margin: 5px 0">{_tokens(tokens)}</div>'
        f'<div style="display: flex; flex-wrap: wrap; gap: 8px 40px">{below}</div></div>'
    )


def _heading(view: Overview) -> str:
    return (
        f"<div><b>{html.escape(view.answer)}</b>: {html.escape(view.sum_of_parts)} "
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


def _rows(rows: Sequence[tuple[str, float]]) -> str:
    lines = "".join(
        f'<tr><td style="text-align: left">{html.escape(name)}</td><td>{score:+.3f}</td></tr>' for name, score in rows
    )
    return f"<table>{lines}</table>" if lines else ""


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
