"""The page's data of a sentence, in plain types: words, numbers, and compressed matrices."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
from torch import Tensor

from captum_attattr.text.explanation import Explanation
from captum_attattr.tree.arguments import sentences_of
from captum_attattr.tree.attribution_tree import AttributionTree

THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Fractions of the total: the tree of each is the beginning of the one before."""

_LARGEST = 32767


def sentence(explanation: Explanation) -> dict[str, Any]:
    """Return everything that the page shows of one explanation."""
    e = explanation
    return {
        "text": e.text,
        "pair": e.text_pair,
        "tokens": e.tokens,
        "names": e.token_names,
        "special": e.special,
        "second": e.second_text_start,
        "labels": e.labels,
        "probabilities": e.probabilities.tolist(),
        "target": e.target,
        "output": e.output,
        "prediction": e.prediction,
        "baseline": e.baseline_output.tolist(),
        "delta": e.delta.tolist(),
        "norms": _norms(e),
        "layers": e.layers,
        "layersAddUp": e.layers_add_up,
        "heads": e.attributions.shape[1],
        "settings": {name: _readable(value) for name, value in e.settings.items()},
        "shares": pack(e.attributions),
        "attention": pack(e.attention),
        "tree": _tree(e),
    }


def pack(matrices: Tensor) -> dict[str, Any]:
    """Pack matrices (L, H, T, T) as whole numbers times a scale for each head.

    The numbers are little-endian int16, deflated, in base64. The error of an entry is at most half a scale, that is
    1/65534 of the largest magnitude of its head.

    Example:
        >>> import torch
        >>> pack(torch.zeros(1, 2, 3, 3))["scales"]
        [0.0, 0.0]
    """
    values = matrices.detach().double().cpu().numpy()
    scales = np.abs(values).max((-2, -1)) / _LARGEST
    steps = values / np.where(scales > 0, scales, 1)[..., None, None]
    numbers = zlib.compress(np.rint(steps).astype("<i2").tobytes())
    return {"scales": scales.ravel().tolist(), "numbers": base64.b64encode(numbers).decode()}


def as_script(data: Any) -> str:
    r"""Encode data as JSON that cannot end a surrounding ``<script>`` element.

    Example:
        >>> as_script("</script>")
        '"\\u003c/script\\u003e"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _norms(explanation: Explanation) -> list[float]:
    """Return the norm of each path's attributions, with which its completeness gap is compared."""
    attributions = explanation.attributions
    return [float(attributions.norm())] if explanation.layers_add_up else attributions.flatten(1).norm(dim=1).tolist()


def _tree(explanation: Explanation) -> dict[str, Any]:
    """Return the edges (layer, query, key, score, attribution, crosses) at the lowest threshold, and all counts."""
    e = explanation
    if len(e.tokens) < 2:
        return {"total": 0.0, "edges": [], "thresholds": [[part, 0] for part in THRESHOLDS]}
    given: dict[str, Any] = {"tokens": e.tokens, "layers": e.layers, "segments": sentences_of(e)}
    trees = [AttributionTree(e.attributions, tau=threshold, **given) for threshold in THRESHOLDS]
    crossing = set(trees[0].crossing_edges if trees[0].segments is not None else [])
    return {
        "total": trees[0].total,
        "edges": [[*edge, edge in crossing] for edge in trees[0].edges],
        "thresholds": [[part, len(tree.edges)] for part, tree in zip(THRESHOLDS, trees, strict=True)],
    }


def _readable(value: Any) -> str:
    return ", ".join(f"{name} {of}" for name, of in value.items()) if isinstance(value, dict) else str(value)
