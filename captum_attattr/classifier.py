"""A text classifier of transformers and its tokenizer as one thing: texts in, tokens and outputs back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from captum_attattr.demo import load_demo

Output = Literal["probability", "logit"]


def load_classifier(name: str | os.PathLike[str] | None = None) -> tuple[nn.Module, Any]:
    """A sequence classification model in eval mode, float32, and its tokenizer.

    Args:
        name: A folder, a name on the Hugging Face Hub, or None for the bundled model.

    Raises:
        ValueError: There is no such model, or it has no trained classification head.

    Example:
        >>> from captum_attattr.classifier import load_classifier
        >>> model, tokenizer = load_classifier()
        >>> model.config.id2label[1]
        'positive'
    """
    if name is None:
        return load_demo()
    name = os.fspath(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        where = "this folder" if Path(name).is_dir() else "a folder or the Hugging Face Hub"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"No classification model could be loaded as {name!r} from {where}: {reason}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(
            f"{name!r} has no trained classification head ({missing} missing): its predictions would be random. "
            "Fine-tune it first, as tutorials/finetune_sst2.py does."
        )
    return model.eval(), tokenizer


@dataclass(frozen=True)
class Batch:
    """Some of the texts, tokenized together. B texts, T tokens of the longest."""

    places: list[int]
    """Where each text stood in the list."""
    inputs: tuple[Tensor, ...]
    """What the model takes, in the order of :attr:`Classifier.input_names`, (B, T) each."""
    real: Tensor
    """(B, T): not padding."""
    tokens: list[list[str]]
    special: list[list[bool]]


class Classifier:
    """A classification model, its tokenizer, and the output to explain.

    Args:
        model: The model, a folder, a name on the Hub, or None for the bundled one.
        tokenizer: The model's tokenizer; loaded along with the model where that is a name.
        output: "probability" or "logit"; a regression model's one output is always taken as it is.

    Raises:
        TypeError: A model without a tokenizer, or no model.
        ValueError: Unknown output, or the model cannot be loaded.
    """

    def __init__(self, model: Any, tokenizer: Any, output: Output) -> None:
        if output not in ("probability", "logit"):
            raise ValueError(f"output {output!r} is unknown. Choose 'probability' or 'logit'.")
        if model is None or isinstance(model, (str, os.PathLike)):
            self.name = "the bundled SST-2 model" if model is None else os.fspath(model)
            model, own_tokenizer = load_classifier(model)
            tokenizer = tokenizer or own_tokenizer
        else:
            self.name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise TypeError(f"model must be a transformers model, a folder or a name, got {type(model).__name__}.")
        if tokenizer is None:
            raise TypeError("A model given as a module needs its tokenizer: explain(text, model, tokenizer).")
        self.model: Any = model
        self.tokenizer = tokenizer
        self._config = self.model.config
        self.labels = [str(self._config.id2label[i]) for i in range(self._config.num_labels)]
        self.output: Output = "logit" if len(self.labels) == 1 else output
        self.input_names: list[str] = []

    def outputs(self, *inputs: Tensor) -> Tensor:
        """F for every label (B, labels), for what the model takes, in order."""
        logits: Tensor = self.model(**dict(zip(self.input_names, inputs, strict=True))).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.output == "logit" else self.probabilities(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each label; labels that do not exclude each other each have their own. Regression: the output itself."""
        if len(self.labels) == 1:
            return logits
        several = self._config.problem_type == "multi_label_classification"
        return logits.sigmoid() if several else logits.softmax(-1)

    def target(self, wanted: int | str | None, predicted: int) -> int:
        """Number of a label given by number or name; of the predicted one for None."""
        if wanted is None:
            return predicted
        if isinstance(wanted, str) and wanted in self.labels:
            return self.labels.index(wanted)
        if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(self.labels):
            return wanted
        known = ", ".join(f"{i} ({label})" for i, label in enumerate(self.labels))
        raise ValueError(f"target {wanted!r} is not a label of the model. Its labels: {known}.")

    def batches(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> Iterator[Batch]:
        """The texts in batches of like length, so that little is padding."""
        lengths = self._lengths(texts, pairs)
        order = sorted(range(len(texts)), key=lambda place: lengths[place])
        can_pad = self.tokenizer.pad_token is not None
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < min(start + batch_size, len(order)) and (
                can_pad or lengths[order[stop]] == lengths[order[start]]
            ):
                stop += 1
            yield self._batch(order[start:stop], texts, pairs)
            start = stop

    def _lengths(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
        lengths = [len(ids) for ids in self.tokenizer(list(texts), pairs and list(pairs), verbose=False)["input_ids"]]
        limit = self._longest()
        cut = [place for place, length in enumerate(lengths) if length > limit]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than the {limit} tokens that the model takes and were "
                f"cut (the first: text {cut[0]}, {lengths[cut[0]]} tokens): what was cut off is not explained.",
                stacklevel=5,
            )
        return [min(length, limit) for length in lengths]

    def _longest(self) -> int:
        positions = getattr(self._config, "max_position_embeddings", None) or 10**9
        return int(min(self.tokenizer.model_max_length, positions))

    def _batch(self, places: list[int], texts: Sequence[str], pairs: Sequence[str] | None) -> Batch:
        encoding = self.tokenizer(
            [texts[place] for place in places],
            None if pairs is None else [pairs[place] for place in places],
            truncation=True,
            max_length=self._longest() if self._longest() < 10**9 else None,
            padding=self.tokenizer.pad_token is not None,
            return_tensors="pt",
            return_special_tokens_mask=True,
        ).to(self.model.device)
        special = encoding.pop("special_tokens_mask").bool()
        self.input_names = list(encoding.keys())
        ids = encoding["input_ids"]
        real = encoding["attention_mask"].bool() if "attention_mask" in encoding else torch.ones_like(ids).bool()
        rows = range(len(places))
        return Batch(
            places,
            tuple(encoding.values()),
            real,
            [self._readable(encoding, row, real[row]) for row in rows],
            [special[row][real[row]].tolist() for row in rows],
        )

    def _readable(self, encoding: Any, row: int, real: Tensor) -> list[str]:
        """Tokens as text; a piece that continues a word begins with ##, whatever the tokenizer's own mark."""
        pieces = self.tokenizer.convert_ids_to_tokens(encoding["input_ids"][row].tolist())
        words = encoding.word_ids(row) if encoding.is_fast else [None] * len(pieces)
        readable = []
        for place, piece in enumerate(pieces):
            text = self.tokenizer.convert_tokens_to_string([piece]).strip().removeprefix("##") or piece
            goes_on = place > 0 and words[place] is not None and words[place] == words[place - 1]
            readable.append(f"##{text}" if goes_on or piece.startswith("##") else text)
        return [token for token, keep in zip(readable, real.tolist(), strict=True) if keep]
