"""A text classifier of transformers with its tokenizer: from texts to tokens and outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_attattr.arguments import check_choice
from captum_attattr.attention import attention_layers
from captum_attattr.engine.calls import InOrder
from captum_attattr.engine.forward import Forward, uncompiled
from captum_attattr.engine.plans import Findings
from captum_attattr.engine.replay import Recording
from captum_attattr.text.model_loading import load_classifier
from captum_attattr.text.model_output import OF_LABEL, Kind, OfLabel, output_of
from captum_attattr.text.words import Span
from captum_attattr.warned import warn

__all__ = ["Batch", "Classifier", "load_classifier"]

# Batches with more token pairs than this take much memory and are no faster.
_MOST_PAIRS = 2**18


def _labels(config: Any) -> list[str]:
    """Return the names of the outputs, in their order.

    Raises:
        ValueError: The labels are not numbered from 0 without gaps.
    """
    names = dict(config.id2label)
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(
            f"The model's labels (config.id2label) have the numbers {', '.join(map(str, names)) or 'none'}, but "
            f"outputs count from 0. Number the labels 0 to {max(len(names) - 1, 0)}, in the order of the outputs."
        )
    return [str(names[number]) for number in range(len(names))]


@dataclass(frozen=True)
class Batch:
    """Some of the texts, tokenized together: B texts, T tokens in the longest."""

    places: list[int]
    """Index of each text in the list of all texts."""
    inputs: tuple[Tensor, ...]
    """The model's inputs, in the order of :attr:`Classifier.input_names`, (B, T) each."""
    real: Tensor
    """(B, T): False for padding."""
    tokens: list[list[str]]
    spans: list[list[Span | None]]
    """Where the tokens are in the text; empty lists if the tokenizer does not tell."""
    special: list[list[bool]]
    unknown: list[float]
    """The part of each text's own tokens that stand for any unknown word."""


class Classifier:
    """A classification model, its tokenizer, and the output to explain.

    Args:
        model: The model, a folder, a name on the Hub, or None for the bundled one.
        tokenizer: The model's tokenizer; loaded with the model if that is given by name or folder.
        output: F of a label: "log-odds", "logit", "probability" or "log-probability"; a regression model's output is
            always taken as it is.

    Raises:
        TypeError: The model has no tokenizer, or is no model.
        ValueError: The output is unknown, or the model cannot be loaded.
    """

    def __init__(self, model: Any, tokenizer: Any, output: OfLabel) -> None:
        check_choice("output", output, OF_LABEL)
        if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "convert_ids_to_tokens")):
            raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}.")
        if model is None or isinstance(model, (str, os.PathLike)):
            self.name = "the bundled SST-2 model" if model is None else os.fspath(model)
            model, tokenizer = load_classifier(model, tokenizer)
        else:
            self.name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise TypeError(f"model must be a transformers model, a folder or a name, got {type(model).__name__}.")
        if tokenizer is None:
            raise TypeError("A model given as a module needs its tokenizer: explain(text, model, tokenizer).")
        self.model: Any = uncompiled(model)
        self.tokenizer = tokenizer
        self._config: Any = cast(Any, model).config
        self.labels: list[str] = _labels(self._config)
        self._explained = output_of(output, model).over(len(self.labels))
        self.input_names: list[str] = []
        self._function, self._findings = self.outputs, Findings()  # one object: findings are kept by function

    def outputs(self, *inputs: Tensor) -> Tensor:
        """Compute F for every label (B, labels), from the model's inputs in order."""
        with self._batches_allowed():
            logits = getattr(self.model(**dict(zip(self.input_names, inputs, strict=True))), "logits", None)
        if logits is None or tuple(logits.shape) != (len(inputs[0]), len(self.labels)):
            raise TypeError(
                f"{type(self.model).__name__} does not give one logit a label for each text: explain needs a sequence "
                "classification model. For other models use SelfAttentionAttribution."
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self._explained.compute(logits)

    @property
    def output(self) -> Kind:
        """The kind of F; "given" for a regression model, whose output is taken as it is."""
        return self._explained.kind

    @property
    def has_classes(self) -> bool:
        """Whether the model predicts one or several of at least two labels; a regression model predicts numbers."""
        return self.output != "given" and len(self.labels) > 1

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Compute each label's probability from the result of :meth:`outputs`; for a regression, return that result."""
        return self._explained.probabilities(outputs)

    def record(self, batch: Batch, numbers: Sequence[int] | None = None) -> tuple[Recording, InOrder]:
        """Record a pass of the texts, and the calls of the attention layers that read them, in calling order.

        Of an encoder-decoder the encoder's layers are recorded, as the decoder reads the text shifted by a token. The
        recording's output is F for every label (B, labels).

        Args:
            batch: The texts.
            numbers: Numbers of the layers to record; None for all.
        """
        reads = self.model.get_encoder() if getattr(self._config, "is_encoder_decoder", False) else self.model
        ids, *rest = batch.inputs
        calls = InOrder(attention_layers(reads), numbers)
        return Recording(Forward(self._function, ids, tuple(rest)), calls, self._findings), calls

    def target(self, wanted: int | str) -> int:
        """Return the number of a label given by number, by name, or by a number as a string.

        Raises:
            ValueError: There is no such label.
        """
        if isinstance(wanted, str) and wanted in self.labels:
            return self.labels.index(wanted)
        if isinstance(wanted, str) and wanted.isdecimal():
            wanted = int(wanted)
        if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(self.labels):
            return wanted
        known = ", ".join(f"{i} ({label})" for i, label in enumerate(self.labels))
        raise ValueError(f"target {wanted!r} is not a label of the model. Its labels: {known}.")

    def batches(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> Iterator[Batch]:
        """Yield the texts in batches of similar length, so that there is little padding."""
        lengths = self._lengths(texts, pairs)
        order = sorted(range(len(texts)), key=lambda place: lengths[place])
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < min(start + batch_size, len(order)) and self._fit(order[start : stop + 1], lengths):
                stop += 1
            yield self._batch(order[start:stop], texts, pairs)
            start = stop

    def _fit(self, places: Sequence[int], lengths: Sequence[int]) -> bool:
        """Whether texts, shortest first, may be in one batch."""
        longest = lengths[places[-1]]
        return len(places) * longest**2 <= _MOST_PAIRS and (self._can_pad() or longest == lengths[places[0]])

    def _can_pad(self) -> bool:
        """Whether texts can be padded: decoders find a text's end by a padding token, which must be the tokenizer's."""
        padding = self.tokenizer.pad_token_id
        return padding is not None and padding == getattr(self._config, "pad_token_id", None) and self._ignores_padding

    @cached_property
    def _ignores_padding(self) -> bool:
        """Whether the output for a text stays the same with padding after it: XLNet reads the last place as it is."""
        plain = self.tokenizer(["."], return_tensors="pt")
        length = plain["input_ids"].shape[1] + 2
        options = {"padding": "max_length", "max_length": length, "padding_side": "right"}
        padded = self.tokenizer(["."], return_tensors="pt", **options)
        self.input_names = list(plain.keys())
        with torch.no_grad():
            one, other = (self.outputs(*encoding.to(self.model.device).values()) for encoding in (plain, padded))
        error = float(torch.finfo(self.model.dtype).eps) ** 0.5
        return torch.allclose(one, other, rtol=error, atol=error * float(one.abs().max()))

    @contextmanager
    def _batches_allowed(self) -> Iterator[None]:
        """Let a decoder without a padding token run on several texts, which it refuses even if nothing is padded."""
        refuses = getattr(self._config, "pad_token_id", 0) is None
        try:
            if refuses:
                self._config.pad_token_id = -1  # no token has this number, so the last token is the text's end
            yield
        finally:
            if refuses:
                self._config.pad_token_id = None

    def _lengths(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
        encoding = self.tokenizer(
            list(texts), None if pairs is None else list(pairs), return_special_tokens_mask=True, verbose=False
        )
        lengths, limit = [len(ids) for ids in encoding["input_ids"]], self._longest()
        for place, special in enumerate(encoding["special_tokens_mask"]):
            if all(special):
                raise ValueError(f"text {place} ({texts[place]!r}) holds no token that the tokenizer knows.")
        cut = [place for place, length in enumerate(lengths) if length > limit]
        if cut:
            warn(
                f"{len(cut)} of {len(texts)} texts were cut, as the model takes {limit} tokens (text {cut[0]} has "
                f"{lengths[cut[0]]}): the part cut off is not explained."
            )
        return [min(length, limit) for length in lengths]

    def _longest(self) -> int:
        most = int(getattr(self._config, "max_position_embeddings", None) or 0)
        positions = [most if most > 0 else 10**9]  # XLNet says -1: any number
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx:
                # RoBERTa and similar models number positions from the padding token's number + 1.
                positions.append(module.num_embeddings - module.padding_idx - 1)
        return min(int(self.tokenizer.model_max_length), *positions)

    def _batch(self, places: list[int], texts: Sequence[str], pairs: Sequence[str] | None) -> Batch:
        limit = self._longest()
        encoding = self.tokenizer(
            [texts[place] for place in places],
            None if pairs is None else [pairs[place] for place in places],
            truncation=limit < 10**9,
            max_length=limit if limit < 10**9 else None,
            padding=len(places) > 1 and self._can_pad(),
            padding_side="right",
            return_tensors="pt",
            return_special_tokens_mask=True,
            return_offsets_mapping=getattr(self.tokenizer, "is_fast", False),
        ).to(self.model.device)
        special = encoding.pop("special_tokens_mask").bool()
        offsets = encoding.pop("offset_mapping", None)
        self._check_numbers(encoding["input_ids"])
        self.input_names = list(encoding.keys())
        ids = encoding["input_ids"]
        real = encoding["attention_mask"].bool() if "attention_mask" in encoding else torch.ones_like(ids).bool()
        rows = range(len(places))
        return Batch(
            places,
            tuple(encoding.values()),
            real,
            [self._readable(encoding, row, real[row]) for row in rows],
            [[] if offsets is None else _spans(encoding.sequence_ids(row), offsets[row], real[row]) for row in rows],
            [special[row, real[row]].tolist() for row in rows],
            [self._part_unknown(ids[row][real[row] & ~special[row]]) for row in rows],
        )

    def _part_unknown(self, ids: Tensor) -> float:
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return 0.0 if unknown is None or not len(ids) else float((ids == unknown).double().mean())

    def _check_numbers(self, ids: Tensor) -> None:
        known = getattr(self.model.get_input_embeddings(), "num_embeddings", None)
        if known is not None and int(ids.max()) >= known:
            raise ValueError(
                f"The tokenizer gives token number {int(ids.max())}, but the model has only {known} tokens: is it the "
                "model's own tokenizer?"
            )

    def _readable(self, encoding: Any, row: int, real: Tensor) -> list[str]:
        """Return tokens as text; a piece that continues a word begins with ##, whatever the tokenizer's own mark is."""
        pieces = self.tokenizer.convert_ids_to_tokens(encoding["input_ids"][row].tolist())
        words = list(zip(encoding.sequence_ids(row), encoding.word_ids(row), strict=True)) if encoding.is_fast else None
        readable = []
        for place, piece in enumerate(pieces):
            text = self.tokenizer.convert_tokens_to_string([piece]).strip().removeprefix("##") or piece
            inside = words is not None and place > 0 and words[place] == words[place - 1] != (None, None)
            goes_on = piece.startswith("##") or (inside and piece[0] not in "\u2581\u0120" and text[0].isalnum())
            readable.append(f"##{text}" if goes_on else text)
        return [token for token, keep in zip(readable, real.tolist(), strict=True) if keep]


def _spans(parts: Sequence[int | None], offsets: Tensor, real: Tensor) -> list[Span | None]:
    """Return where the tokens of a row are in its texts, without padding."""
    ends = zip(parts, offsets.tolist(), real.tolist(), strict=True)
    return [None if part is None else Span(part, *at) for part, at, keep in ends if keep]
