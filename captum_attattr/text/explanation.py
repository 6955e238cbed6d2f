"""The explanation of one text: tokens, prediction, attributions, and the scores computed from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_attattr import aggregation
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.text.bertviz import WeightKind, by_layer, weights_of_layers
from captum_attattr.text.card import card
from captum_attattr.text.explanation_files import read_explanation, write_explanation
from captum_attattr.text.plain import as_dict
from captum_attattr.text.ranked import Head, TokenPair, numbered, strongest_heads, strongest_pairs
from captum_attattr.text.words import (
    Group,
    Span,
    Unit,
    attention_of_units,
    group_units,
    sum_over_pieces,
    word_units,
)
from captum_attattr.warned import warn


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
    """F: log-odds, or another number of the target."""
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
    spans: list[Span | None] = field(default_factory=list)
    """Where each token is in the text; None for those that are not in it; empty if the tokenizer does not tell."""
    layerwise: Explanation | None = None
    """The same text explained layer by layer, if asked for beside joint attributions."""

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
        """The name of F: "log-odds", "logit", "probability", "log-probability", or a regression model's "output"."""
        kind = str(self.settings["output"])
        return "output" if kind == "given" else kind

    @property
    def explained(self) -> str:
        """The full name of F, such as "log-odds of 'positive'"; a regression model's only output is "output"."""
        alone = self.output_name == "output" and len(self.labels) == 1
        return self.output_name if alone else f"{self.output_name} of {self.label!r}"

    @property
    def token_names(self) -> list[str]:
        """Unique names of the tokens: later occurrences of the same token end with "(2nd)", "(3rd)"."""
        return numbered(self.tokens)

    @property
    def second_text_start(self) -> int | None:
        """Position of the second text's first token; None without a second text, or if it is not known."""
        if any(self.spans):
            return next((place for place, span in enumerate(self.spans) if span is not None and span.part == 1), None)
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

    @property
    def reader(self) -> int | None:
        """Position of the only token that the output reads ([CLS], a decoder's last token); None if it reads several.

        In the highest layer no other token has attributions as a query.
        """
        top = self.layers.index(max(self.layers))
        return aggregation.only_reader(self.attributions[top : top + 1].sum(1))

    @cached_property
    def words(self) -> Explanation:
        """The explanation with the pieces of each word joined: its attributions are sums over them.

        Signs and characters that are not written as words, such as Chinese ones and emoji, are whole as well. The names
        are those in the text.

        Example:
            >>> from captum_attattr import explain
            >>> pieces = explain("An unputdownable book.")
            >>> pieces.tokens[2:6], pieces.words.tokens[2:4]
            (['un', '##put', '##down', '##able'], ['unputdownable', 'book'])
        """
        return self._joined(self.word_units)

    @property
    def word_units(self) -> list[Unit]:
        """The words, with the positions of their pieces."""
        return word_units(self._texts, self.tokens, self.spans)

    def grouped(self, groups: Sequence[Group]) -> Explanation:
        """Return the explanation with parts of the text joined: phrases, sentences.

        Args:
            groups: The parts, in the order of the text, each as it is written there, or as the numbers of its first
                character and of the one after its last. What is in none of them is joined to words.

        Raises:
            ValueError: A part is not in the text or not in order, or it is not known where the tokens are.
            TypeError: A part is of another type.

        Example:
            >>> from captum_attattr import explain
            >>> explain("A warm, funny film.").grouped(["A warm, funny film"]).tokens
            ['[CLS]', 'A warm, funny film', '.', '[SEP]']
        """
        return self._joined(group_units(self._texts, self.tokens, self.spans, groups))

    @property
    def _texts(self) -> list[str]:
        return [text for text in (self.text, self.text_pair) if text is not None]

    def _joined(self, units: Sequence[Unit]) -> Explanation:
        if len(units) == len(self.tokens) and [unit.name for unit in units] == self.tokens:
            return self
        return replace(
            self,
            tokens=[unit.name for unit in units],
            special=[all(self.special[place] for place in unit.tokens) for unit in units],
            spans=[unit.span for unit in units] if self.spans else [],
            attributions=sum_over_pieces(self.attributions, units),
            attention=attention_of_units(self.attention, units),
            layerwise=None if self.layerwise is None else self.layerwise._joined(units),
        )

    @property
    def sums_only_rank(self) -> bool:
        """Whether sums over layers are a ranking and no shares: layerwise attributions of several layers."""
        return not self.layers_add_up and len(self.layers) > 1

    @cached_property
    def _warned_of_sums(self) -> bool:
        """Whether a warning has said so, which is given once."""
        if self.sums_only_rank:
            warn(
                "Layerwise attributions do not add up over layers: each layer's are parts of a difference of its own. "
                "Sums over layers are a ranking, not shares of the output: explain(...) gives joint ones by default."
            )
        return self.sums_only_rank

    def head_scores(self, reduction: aggregation.HeadReduction = "sum", **options: Any) -> Tensor:
        """(L, H): see :func:`captum_attattr.head_scores`."""
        return aggregation.head_scores(self.attributions, reduction, **options)

    def token_scores(self, reduction: aggregation.TokenReduction = "received", **options: Any) -> Tensor:
        """(T,): see :func:`captum_attattr.token_scores`."""
        _ = self._warned_of_sums
        return aggregation.token_scores(self.attributions, reduction, **options)

    def pair_scores(self, **options: Any) -> Tensor:
        """(T, T): see :func:`captum_attattr.pair_scores`."""
        _ = self._warned_of_sums
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
        left_out = None if special else self.special
        return strongest_pairs(self.pair_scores(), k, left_out)

    def top_heads(self, k: int = 10, reduction: aggregation.HeadReduction = "sum") -> list[Head]:
        """Return the k heads with the largest magnitude of their score."""
        return strongest_heads(self.head_scores(reduction), self.layers, k)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the explanation to one safetensors file, with all fields but the tensors in the file's metadata.

        Raises:
            ValueError: The file cannot be written, or the fields do not fit together.
        """
        return write_explanation(path, self._fields())

    def _fields(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**found, "layerwise": None if self.layerwise is None else self.layerwise._fields()}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read an explanation that :meth:`save` wrote.

        Raises:
            ValueError: There is no such file, or it is damaged, no explanation, or of a newer version.
        """
        return cls._from_fields(read_explanation(path))

    @classmethod
    def _from_fields(cls, given: Mapping[str, Any]) -> Explanation:
        layerwise = given["layerwise"]
        return cls(**{**given, "layerwise": None if layerwise is None else cls._from_fields(layerwise)})

    def to_dict(self, k: int = 10, *, special: bool = True) -> dict[str, Any]:
        """Return the main results in plain types, for JSON: prediction, completeness, strongest pairs and heads."""
        return as_dict(self, k, special)

    def to_bertviz(self, kind: WeightKind = "magnitude") -> dict[str, Any]:
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
        weights = weights_of_layers(self.attributions, self.attention, kind)
        view: dict[str, Any] = {"attention": by_layer(weights, self.layers), "tokens": self.tokens}
        view["include_layers"] = self.layers
        return view if self.second_text_start is None else {**view, "sentence_b_start": self.second_text_start}

    def _repr_html_(self) -> str:
        """Return a summary for notebooks; for an interactive page see :class:`captum_attattr.Report`."""
        return card(self)

    def __repr__(self) -> str:
        """Short: the text, the target and the size."""
        return (
            f"Explanation({self.text!r}, {self.label} {self.output:.3f}, "
            f"{len(self.layers)} layers x {self.attributions.shape[1]} heads x {len(self.tokens)} tokens)"
        )
