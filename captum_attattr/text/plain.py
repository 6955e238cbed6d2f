"""An explanation in plain types, for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_attattr.text.explanation import Explanation


def as_dict(explanation: Explanation, k: int, special: bool) -> dict[str, Any]:
    """Return the main results: see :meth:`Explanation.to_dict`."""
    e = explanation
    return {
        "text": e.text,
        "text_pair": e.text_pair,
        "tokens": e.tokens,
        "prediction": e.prediction,
        "probabilities": dict(zip(e.labels, e.probabilities.tolist(), strict=True)),
        "target": e.label,
        "output": e.output,
        "baseline_output": e.baseline_output.tolist(),
        "delta": e.delta.tolist(),
        "evaluations": e.evaluations,
        "layers": e.layers,
        "head_scores": e.head_scores().tolist(),
        "token_scores": e.token_scores().tolist(),
        "top_pairs": [
            {"from": e.tokens[pair.query], "to": e.tokens[pair.key], **pair._asdict()}
            for pair in e.top_pairs(k, special=special)
        ],
        "top_heads": [head._asdict() for head in e.top_heads(k)],
        "layerwise": None if e.layerwise is None else _layers(e.layerwise),
        "settings": e.settings,
    }


def _layers(explanation: Explanation) -> dict[str, Any]:
    """Return what each layer adds by itself."""
    e = explanation
    return {
        "layers": e.layers,
        "baseline_output": e.baseline_output.tolist(),
        "delta": e.delta.tolist(),
        "evaluations": e.evaluations,
        "head_scores": e.head_scores().tolist(),
    }
