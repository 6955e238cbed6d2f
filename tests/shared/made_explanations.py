"""Explanations of any size, with attributions drawn at random, and what can be read from a picture."""

from __future__ import annotations

from dataclasses import replace

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from captum_attattr import Explanation

WORDS = ["film", "the", "unwatchable", "a", "ness", "$", "warm", ",", "funny", "is"]


def made(count, layers=3, heads=4, scale=1.0, **fields):
    """An explanation of that many tokens, with attributions drawn at random."""
    numbers = torch.Generator().manual_seed(0)
    shape = (layers, heads, count, count)
    tokens = ["[CLS]", *(WORDS[place % len(WORDS)] for place in range(count - 2)), "[SEP]"]
    special = [place in (0, count - 1) for place in range(count)]
    explanation = Explanation(
        text=" ".join(tokens[1:-1]), text_pair=None, tokens=tokens, special=special, labels=["bad", "good"],
        probabilities=torch.tensor([0.25, 0.75]), target=1, output=0.75,
        attributions=scale * torch.randn(shape, generator=numbers), attention=torch.rand(shape, generator=numbers),
        delta=torch.zeros(layers), layers=list(range(layers)), settings={"output": "probability", "path": "layerwise"},
    )  # fmt: skip
    return replace(explanation, **fields)


def labels(ticks):
    return [label.get_text() for label in ticks]


def drawn(figure):
    """Drawn for good, so that every label has its place."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()
