"""The page's data of a text, in plain types: words, numbers, and compressed matrices."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
from torch import Tensor

from captum_attattr.text.explanation import Explanation
from captum_attattr.text.overview import Overview
from captum_attattr.tree.arguments import sentences_of
from captum_attattr.tree.attribution_tree import AttributionTree

THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Fractions of the total: the tree of each is the beginning of the one before."""

_FINE, _COARSE, _COARSE_LOOKS = 32767, 31, 15
_MOST_FINE = 5_000_000
"""With more entries than this on a page those of single heads are coarse, so that browsers can open it."""


def steps_of(explanations: list[Explanation]) -> int:
    """Return to which part of its largest entry each head's matrix is rounded on a page of these explanations."""
    apart = [e.layerwise for e in explanations if e.layerwise is not None]
    entries = sum(2 * e.attributions.numel() for e in [*explanations, *apart])
    return _FINE if entries <= _MOST_FINE else _COARSE


def looks_of(steps: int) -> int:
    """Return the same of attention, which is only to be seen, where attributions are rounded to this part."""
    return steps if steps == _FINE else _COARSE_LOOKS


def sentence(explanation: Explanation, steps: int = _FINE) -> dict[str, Any]:
    """Return everything that the page shows of one explanation."""
    e = explanation
    view = Overview(e.words)
    apart = [e] if e.layerwise is None else [e, e.layerwise]
    return {
        "text": e.text,
        "pair": e.text_pair,
        "pieces": _units(e, list(range(len(e.tokens)))),
        "words": _units(e.words, _owners(e)),
        "labels": e.labels,
        "probabilities": e.probabilities.tolist(),
        "target": e.target,
        "output": e.output,
        "prediction": e.prediction,
        "headline": view.headline,
        "sum": view.sum_of_parts,
        "received": [float(f"{score:.5g}") for score in view.received.tolist()],
        "paths": [_path(one, steps) for one in apart],
        "settings": {name: _readable(value) for name, value in e.settings.items()},
    }


def _units(e: Explanation, owners: list[int]) -> dict[str, Any]:
    """Return the tokens of an explanation as they are shown; ``owners`` are those of the pieces."""
    return {
        "tokens": e.tokens, "names": e.token_names, "special": e.special, "second": e.second_text_start,
        "owners": owners,
    }  # fmt: skip


def _owners(e: Explanation) -> list[int]:
    """Return the word of each piece."""
    return [number for number, unit in enumerate(e.word_units) for _ in unit.tokens]


def _path(e: Explanation, steps: int) -> dict[str, Any]:
    return {
        "name": e.settings["path"],
        "addUp": e.layers_add_up,
        "ranking": e.sums_only_rank,
        "reader": e.reader,
        "layers": e.layers,
        "heads": e.attributions.shape[1],
        "baseline": e.baseline_output.tolist(),
        "delta": e.delta.tolist(),
        "norms": _norms(e),
        "shares": pack(e.attributions, steps),
        "attention": pack(e.attention, looks_of(steps)),
        "allShares": pack(e.attributions.sum((0, 1))[None, None]),
        "allAttention": pack(e.attention.mean((0, 1))[None, None]),
        "tree": _tree(e.words),
    }


def pack(matrices: Tensor, steps: int = _FINE) -> dict[str, Any]:
    """Pack matrices (L, H, T, T) as whole numbers times a scale for each head.

    The numbers are little-endian, of 16 or 8 bits, deflated, in base64. The error of an entry is at most half a scale,
    which is the largest magnitude of its head divided by ``steps``.

    Example:
        >>> import torch
        >>> pack(torch.zeros(1, 2, 3, 3))["scales"]
        [0.0, 0.0]
    """
    values = matrices.detach().double().cpu().numpy()
    scales = np.abs(values).max((-2, -1)) / steps
    bits = 8 if steps < 128 else 16
    whole = np.rint(values / np.where(scales > 0, scales, 1)[..., None, None]).astype(f"<i{bits // 8}")
    numbers = zlib.compress(whole.tobytes(), 9)
    return {
        "bits": bits,
        "scales": [float(f"{scale:.8g}") for scale in scales.ravel()],
        "numbers": base64.b64encode(numbers).decode(),
    }


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
