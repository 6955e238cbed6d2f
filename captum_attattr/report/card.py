"""An explanation at a glance, for notebooks: plain HTML with no script, small enough to be saved with every cell."""

from __future__ import annotations

import html
from collections.abc import Sequence

from captum_attattr.explanation import Explanation
from captum_attattr.report.colours import colour, ink

_MOST_PAIRS, _MOST_HEADS = 6, 400
_SMALL = "font-size: 85%; opacity: 0.75"


def card(explanation: Explanation) -> str:
    """Prediction, the sentence with what each token receives, strongest pairs, and the map of heads."""
    columns = [("Strongest pairs", _pairs(explanation)), ("Heads", _heads(explanation))]
    below = "".join(
        f'<div><div style="{_SMALL}; margin-bottom: 3px">{title}</div>{content}</div>'
        for title, content in columns
        if content
    )
    return (
        f'<div style="font-family: system-ui, sans-serif; line-height: 1.6">{_heading(explanation)}'
        f'<div style="margin: 5px 0">{_tokens(explanation)}</div>'
        f'<div style="display: flex; flex-wrap: wrap; gap: 8px 40px">{below}</div></div>'
    )


def _heading(explanation: Explanation) -> str:
    e = explanation
    if e.output_name == "output":
        return f"<div>{html.escape(e.explained)} <b>{e.output:.4f}</b></div>"
    explained = f"{html.escape(e.explained)}: {e.output:.4f}"
    return (
        f"<div>prediction <b>{html.escape(e.prediction)}</b> ({float(e.probabilities.max()):.3f}), "
        f"explained: {explained} "
        f'<span style="{_SMALL}">(<b style="color: {colour(1)}; background: #fff">purple</b> speaks for it, '
        f'<b style="color: {colour(-1)}; background: #fff">orange</b> against it)</span></div>'
    )


def _tokens(explanation: Explanation) -> str:
    scores = explanation.token_scores().tolist()
    most = _largest(scores)
    return " ".join(
        f'<span title="receives {score:+.4f}" style="{_painted(score / most)}; padding: 1px 5px; border-radius: 4px">'
        f"{html.escape(token)}</span>"
        for token, score in zip(explanation.tokens, scores, strict=True)
    )


def _pairs(explanation: Explanation) -> str:
    names = explanation.token_names
    rows = "".join(
        f'<tr><td style="text-align: left">{html.escape(names[pair.query])} &rarr; {html.escape(names[pair.key])}</td>'
        f"<td>{pair.score:+.4f}</td></tr>"
        for pair in explanation.top_pairs(_MOST_PAIRS)
    )
    return f"<table>{rows}</table>" if rows else ""


def _heads(explanation: Explanation) -> str:
    """The map of heads, the last layer on top as in all pictures; none where it would be too large for a glance."""
    rows = explanation.head_scores().tolist()
    if sum(map(len, rows)) > _MOST_HEADS:
        return ""
    most = _largest([score for row in rows for score in row])
    body = "".join(
        f'<tr><td style="{_SMALL}; padding: 0 6px">layer {layer}</td>'
        + "".join(
            f'<td title="layer {layer}, head {head}: {score:+.4f}" '
            f'style="{_painted(score / most)}; width: 18px; height: 16px; padding: 0; border: 1px solid #eee"></td>'
            for head, score in enumerate(row)
        )
        + "</tr>"
        for layer, row in reversed(list(zip(explanation.layers, rows, strict=True)))
    )
    return f'<table style="border-collapse: collapse">{body}</table>'


def _largest(scores: Sequence[float]) -> float:
    return max((abs(score) for score in scores), default=0.0) or 1.0


def _painted(part: float) -> str:
    return f"background: {colour(part)}; color: {ink(part)}"
