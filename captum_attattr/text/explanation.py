"""The explanation of one text: tokens, prediction, attributions, and the scores computed from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_attattr import aggregation
from captum_attattr.arguments import check_choice
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.text.card import Prediction, card
from captum_attattr.text.explanation_files import TENSORS, read_explanation, write_explanation


class TokenPair(NamedTuple):
    """Positions of a query and the key that it looks at, and the attribution of the pair."""

    query: int
    key: int
    score: float


class Head(NamedTuple):
    """Numbers of a head's layer in the model and of the head in the layer, and the attribution of the head."""

    layer: int
    head: int
    score: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The result of self-attention attribution for one text, of L layers, H heads and T tokens.

    Example:
        >>> from captum_attattr import explain
        >>> explanation = explain("A warm, funny film.")
        >>> explanation.label
        'positive'
        >>> explanation.attributions.shape
        torch.Size([6, 12, 8, 8])
    """

    text: str
    text_pair: str | None
    tokens: list[str]
    """The tokens as text; a piece that continues a word begins with ##."""
    special: list[bool]
    """Which tokens the tokenizer added ([CLS], [SEP])."""
    labels: list[str]
    probabilities: Tensor
    """(labels,): probability of each label; for a regression model its output."""
    target: int
    """The label whose output is explained."""
    output: float
    """F: probability (or logit) of the target."""
    attributions: Tensor
    """(L, H, T, T): attribution of query i looking at key j, in the unit of F."""
    attention: Tensor
    """(L, H, T, T): the attention probabilities that the model used."""
    delta: Tensor
    """(L,): sum of a layer's attributions minus (F(A) - F(A0)), the integration error; (1,) for the joint path."""
    layers: list[int]
    """Numbers of the explained layers in the model, from 0."""
    settings: dict[str, Any]
    """The settings of the explanation: model, tolerance, method, n_steps, path, output, baseline, versions."""
    evaluations: list[int] = field(default_factory=list)
    """(L,): number of forward and backward passes of each layer; one number for the joint path."""

    @property
    def label(self) -> str:
        """Name of the target."""
        return self.labels[self.target]

    @property
    def prediction(self) -> str:
        """Name of the most probable label."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def output_name(self) -> str:
        """The name of F: "probability", "logit", or a regression model's "output"."""
        kind = str(self.settings["output"])
        return "output" if kind == "given" else kind

    @property
    def explained(self) -> str:
        """The full name of F, such as "probability of 'positive'"; a regression model's only output is "output"."""
        alone = self.output_name == "output" and len(self.labels) == 1
        return self.output_name if alone else f"{self.output_name} of {self.label!r}"

    @property
    def token_names(self) -> list[str]:
        """Unique names of the tokens: later occurrences of the same token end with "(2nd)", "(3rd)"."""
        return [_name(token, self.tokens[:place].count(token)) for place, token in enumerate(self.tokens)]

    @property
    def second_text_start(self) -> int | None:
        """Position of the second text's first token; None without a second text or a token that separates the texts."""
        own = [place for place, special in enumerate(self.special) if not special]
        gaps = [after for before, after in pairwise(own) if after - before > 1]
        return gaps[0] if self.text_pair is not None and gaps else None

    @property
    def layers_add_up(self) -> bool:
        """Whether attributions of all layers add up to one difference, F(A) - F(A0), as on the joint path."""
        return path_named(self.settings["path"]).layers_add_up

    @property
    def baseline_output(self) -> Tensor:
        """F(A0), with each layer's attention at its baseline, (L,); on the joint path with that of all layers, (1,)."""
        total = self.layer_scores()
        if self.layers_add_up:
            total = total.sum().reshape(1)
        return self.output - (total - self.delta)

    def head_scores(self, reduction: aggregation.HeadReduction = "sum", **options: Any) -> Tensor:
        """(L, H): see :func:`captum_attattr.head_scores`."""
        return aggregation.head_scores(self.attributions, reduction, **options)

    def token_scores(self, reduction: aggregation.TokenReduction = "received", **options: Any) -> Tensor:
        """(T,): see :func:`captum_attattr.token_scores`."""
        return aggregation.token_scores(self.attributions, reduction, **options)

    def pair_scores(self, **options: Any) -> Tensor:
        """(T, T): see :func:`captum_attattr.pair_scores`."""
        return aggregation.pair_scores(self.attributions, **options)

    def layer_scores(self, **options: Any) -> Tensor:
        """(L,): see :func:`captum_attattr.layer_scores`."""
        return aggregation.layer_scores(self.attributions, **options)

    def top_pairs(self, k: int = 10, *, special: bool = True) -> list[TokenPair]:
        """Return the k token pairs with the largest magnitude, summed over layers and heads.

        Args:
            k: Maximum number of pairs.
            special: Whether to include pairs with tokens that the tokenizer added.
        """
        scores = self.pair_scores()
        magnitude = scores.abs()
        if not special:
            left_out = torch.tensor(self.special, device="cpu")
            magnitude = magnitude.masked_fill(left_out[:, None] | left_out[None, :], -1)
        best = magnitude.flatten().topk(min(max(k, 0), magnitude.numel())).indices.tolist()
        width = len(self.tokens)
        places = [divmod(place, width) for place in best if magnitude.view(-1)[place] > 0]
        return [TokenPair(i, j, float(scores[i, j])) for i, j in places]

    def top_heads(self, k: int = 10, reduction: aggregation.HeadReduction = "sum") -> list[Head]:
        """Return the k heads with the largest magnitude of their score."""
        scores = self.head_scores(reduction)
        best = scores.abs().flatten().topk(min(max(k, 0), scores.numel())).indices.tolist()
        places = [divmod(place, scores.shape[1]) for place in best]
        return [Head(self.layers[layer], head, float(scores[layer, head])) for layer, head in places]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the explanation to one safetensors file, with all fields but the tensors in the file's metadata.

        Raises:
            ValueError: The file cannot be written, or the fields do not fit together.
        """
        words = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in TENSORS}
        return write_explanation(path, words, {name: getattr(self, name) for name in TENSORS})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read an explanation that :meth:`save` wrote.

        Raises:
            ValueError: There is no such file, or it is damaged, no explanation, or of a newer version.
        """
        return cls(**read_explanation(path))

    def to_dict(self, k: int = 10, *, special: bool = True) -> dict[str, Any]:
        """Return the main results in plain types, for JSON: prediction, completeness, strongest pairs and heads."""
        pairs = self.top_pairs(k, special=special)
        return {
            "text": self.text,
            "text_pair": self.text_pair,
            "tokens": self.tokens,
            "prediction": self.prediction,
            "probabilities": dict(zip(self.labels, self.probabilities.tolist(), strict=True)),
            "target": self.label,
            "output": self.output,
            "baseline_output": self.baseline_output.tolist(),
            "delta": self.delta.tolist(),
            "evaluations": self.evaluations,
            "layers": self.layers,
            "head_scores": self.head_scores().tolist(),
            "token_scores": self.token_scores().tolist(),
            "top_pairs": [{"from": self.tokens[p.query], "to": self.tokens[p.key], **p._asdict()} for p in pairs],
            "top_heads": [head._asdict() for head in self.top_heads(k)],
            "settings": self.settings,
        }

    def to_bertviz(
        self, kind: Literal["magnitude", "positive", "negative", "attention"] = "magnitude"
    ) -> dict[str, Any]:
        """Return arguments for bertviz's ``head_view`` and ``model_view``: ``head_view(**explanation.to_bertviz())``.

        bertviz draws weights from 0 to 1 without signs. So it gets the attributions of one sign, or the magnitudes, of
        each layer, divided by the layer's largest magnitude.

        Args:
            kind: The "magnitude" of the attributions, only those that raise the target's output ("positive") or lower
                it ("negative"), or the "attention" itself.

        Returns:
            ``attention``, (1, H, T, T) for each layer up to the last explained one; ``tokens``; ``include_layers``, the
            explained layers; and ``sentence_b_start`` if it is known.

        Raises:
            ValueError: The kind is unknown.

        Example:
            >>> from captum_attattr import explain
            >>> view = explain("A warm, funny film.").to_bertviz("positive")
            >>> len(view["attention"]), view["attention"][0].shape
            (6, torch.Size([1, 12, 8, 8]))
        """
        weights = _weights(self.attributions, self.attention, kind).unsqueeze(1)
        given = dict(zip(self.layers, weights, strict=True))
        blank = torch.zeros((), device="cpu").expand_as(weights[0])
        view: dict[str, Any] = {
            "attention": tuple(given.get(number, blank) for number in range(max(self.layers) + 1)),
            "tokens": self.tokens,
            "include_layers": self.layers,
        }
        return view if self.second_text_start is None else {**view, "sentence_b_start": self.second_text_start}

    def _repr_html_(self) -> str:
        """Return a summary for notebooks; for an interactive page see :class:`captum_attattr.Report`."""
        names = self.token_names
        number = self.output_name == "output"
        return card(
            None if number else Prediction(self.prediction, float(self.probabilities.max())),
            self.explained,
            self.output,
            list(zip(self.tokens, self.token_scores().tolist(), strict=True)),
            [(names[pair.query], names[pair.key], pair.score) for pair in self.top_pairs(6)],
            list(zip(self.layers, self.head_scores().tolist(), strict=True)),
        )

    def __repr__(self) -> str:
        """Short: the text, the target and the size."""
        return (
            f"Explanation({self.text!r}, {self.label} {self.output:.3f}, "
            f"{len(self.layers)} layers x {self.attributions.shape[1]} heads x {len(self.tokens)} tokens)"
        )


def _weights(attributions: Tensor, attention: Tensor, kind: str) -> Tensor:
    """Compute weights from 0 to 1 of one kind, in the shape of the attributions."""
    kinds = {
        "magnitude": attributions.abs(),
        "positive": attributions.clamp(min=0),
        "negative": attributions.neg().clamp(min=0),
        "attention": attention,
    }
    check_choice("kind", kind, list(kinds))
    if kind == "attention":
        return attention
    largest = attributions.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, kinds[kind] / largest, 0)


def _name(token: str, before: int) -> str:
    """Return the token, with its number if the same token has occurred before."""
    if not before:
        return token
    number = before + 1
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{token} ({number}{ending})"
