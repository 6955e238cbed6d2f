"""Arguments of :class:`captum_attattr.AttributionTree`, checked and converted for the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captum_attattr.aggregation import only_reader, stack_layers
from captum_attattr.text.explanation import Explanation

Root = int | Literal["auto", "none"]


def sum_over_heads(attributions: Tensor | Sequence[Tensor]) -> Tensor:
    """Check attributions and sum them over heads: (layer, query, key).

    Raises:
        TypeError, ValueError: They are not the finite attributions of one text.
    """
    if not isinstance(attributions, Tensor):
        several = isinstance(attributions, (list, tuple))
        if not several or not all(isinstance(layer, Tensor) for layer in attributions):
            raise TypeError("Attributions must be an Explanation, a tensor, or a list with one tensor a layer.")
    stacked = stack_layers(list(attributions)).detach()
    if stacked.dim() == 5 and stacked.shape[1] == 1:
        stacked = stacked[:, 0]
    if stacked.dim() != 4 or stacked.shape[-1] != stacked.shape[-2] or stacked.shape[-1] < 2:
        raise ValueError(
            "A tree needs one text's attributions (layer, head, query, key) with at least two tokens, got the "
            f"shape {tuple(stacked.shape)}. Of a batch select one text and remove its padding."
        )
    if not stacked.isfinite().all():
        raise ValueError("Attributions hold NaN or infinite values: is the model's output finite for this text?")
    return stacked.sum(1, dtype=torch.float64).cpu()


def fraction(name: str, value: float) -> float:
    """Return a number and check that it is between 0 and 1.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return float(value)


def root_of(root: Root, attributions: Tensor) -> int | None:
    """Return the position of the token that the output reads, None if it reads all of them.

    Raises:
        ValueError: There is no such token.
    """
    count = attributions.shape[-1]
    if root == "none":
        return None
    if root == "auto":
        reader = only_reader(attributions)
        first_sees_none = bool(attributions[:, -1, :-1].any() and not attributions[:, 0, 1:].any())
        return reader if reader is not None else (count - 1) * first_sees_none
    if isinstance(root, bool) or not isinstance(root, int) or not -count <= root < count:
        raise ValueError(f"root must be the position of one of the {count} tokens, 'auto' or 'none', got {root!r}.")
    return root % count


def sentences_of(explanation: Explanation) -> list[int | None] | None:
    """Return each token's sentence, None for tokens that the tokenizer added; None if the sentences are not known."""
    start = explanation.second_text_start
    if explanation.text_pair is not None and start is None:
        return None
    return [
        None if added else int(start is not None and place >= start) for place, added in enumerate(explanation.special)
    ]
