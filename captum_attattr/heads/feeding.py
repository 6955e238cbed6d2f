"""Batches for a model from data sets of texts, of tokenized items, or of batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from captum_attattr.arguments import check_count
from captum_attattr.files.digest import Digest
from captum_attattr.files.examples import Example, label_numbers, texts_and_pairs
from captum_attattr.text.classifier import Classifier
from captum_attattr.text.gold_labels import NO_LABEL

LABELS = ("labels", "label")
"""The names under which a batch may hold its labels."""


@dataclass(frozen=True)
class Feed:
    """Batches with their labels, if known, and the function that runs them."""

    batches: Iterable[tuple[Any, Any]]
    """The model's inputs (a mapping, a tensor or a tuple of tensors), and labels."""
    count: int | None
    """Number of examples, if known."""
    function: Callable[..., Any] | None = None
    """Computes the logits from the inputs in order; None: the model itself."""
    fingerprint: str | None = None
    """Digest of all data, if they are known beforehand."""


def feed(data: Any, model: Any, tokenizer: Any, batch_size: int) -> Feed:
    """Make batches from any supported form of data.

    Args:
        data: See :meth:`HeadImportance.run`.
        model: Needed for texts, and for tokenized items, for its inputs and its padding token.
        tokenizer: Needed for texts.
        batch_size: Maximum number of texts or items in a batch; given batches stay as they are.

    Raises:
        ValueError: There are no data, they are not tokenized, or a sampler already gives each process its part.
        TypeError: The data have none of these forms.
    """
    check_count("batch_size", batch_size)
    if isinstance(data, (str, bytes, Mapping, Tensor)) or not (isinstance(data, Iterable) or _has_items(data)):
        raise TypeError(
            "data must be a DataLoader or another iterable of batches, a data set of tokenized items, or a list of "
            f"(text, label); got {type(data).__name__}."
        )
    if _has_items(data) and not isinstance(data, DataLoader):
        if len(data) == 0:
            raise ValueError("The data are empty: give at least one example.")
        if isinstance(data[0], Example) or (isinstance(data[0], (tuple, list)) and isinstance(data[0][0], str)):
            return _of_texts(data, model, tokenizer, batch_size)
        if not isinstance(data, (list, tuple)):
            return _of_items(data, model, batch_size)
    _check_not_dealt_out(data)
    return Feed(_pairs(data), None)


def _has_items(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _check_not_dealt_out(loader: Any) -> None:
    """Refuse a loader that gives each process its own batches: every process must be given all of them."""
    if isinstance(getattr(loader, "sampler", None), DistributedSampler) or type(loader).__module__.startswith(
        "accelerate."
    ):
        raise ValueError(
            "This DataLoader gives each process its own part already (and repeats examples to make the parts equal). "
            "Give each process the same plain DataLoader: the batches are distributed here, none twice."
        )


def _pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, labels) from a loader's batches, which are mappings with labels or (inputs, labels)."""
    for batch in batches:
        if isinstance(batch, Mapping):
            yield split_labels(batch)
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            yield batch[0], batch[1]
        else:
            kind = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise TypeError(f"A batch must be a mapping (with 'labels' in it), or (inputs, labels); got {kind}.")


def split_labels(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the inputs in a batch without its labels, and the labels; None if there are none."""
    labels = [batch[name] for name in LABELS if name in batch]
    return {name: batch[name] for name in batch if name not in LABELS}, labels[0] if labels else None


def _of_texts(data: Sequence[Any], model: Any, tokenizer: Any, batch_size: int) -> Feed:
    if not isinstance(model, nn.Module) or tokenizer is None:
        raise TypeError("Texts need a transformers model and its tokenizer: run(data, tokenizer=tokenizer).")
    classifier = Classifier(model, tokenizer, "logit")
    examples = [one if isinstance(one, Example) else _example(one) for one in data]
    several = len(classifier.labels) > 1
    labels = label_numbers(examples, classifier.labels) if several and examples[0].label is not None else None

    def batches() -> Iterator[tuple[Any, Any]]:
        for batch in classifier.batches(*texts_and_pairs(examples), batch_size):
            yield batch.inputs, None if labels is None else [labels[place] for place in batch.places]

    digest = Digest()
    digest.add([(example.text, example.text_pair, example.label) for example in examples])
    return Feed(batches(), len(examples), classifier.outputs, str(digest))


def _example(given: Any) -> Example:
    text, label = given
    return Example(text, None, None if label is None else str(label))


def _of_items(data: Any, model: Any, batch_size: int) -> Feed:
    """Make batches of items {name: one example's tensor or list}, sorted by length and padded on the right."""
    names = _names(data[0], model)
    order = list(range(len(data)))
    if names[0] == "input_ids":
        lengths = [len(data[place]["input_ids"]) for place in order]
        order.sort(key=lambda place: lengths[place])
    padding = int(getattr(getattr(model, "config", None), "pad_token_id", None) or 0)

    def batches() -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(order), batch_size):
            items = [data[place] for place in order[start : start + batch_size]]
            batch = {name: _stacked([item[name] for item in items], padding * (name == "input_ids")) for name in names}
            if "input_ids" in batch and "attention_mask" not in batch:
                batch["attention_mask"] = _stacked([[1] * len(item["input_ids"]) for item in items], 0)
            labels = [_labels([item[name] for item in items]) for name in LABELS if name in items[0]]
            yield batch, labels[0] if labels else None

    return Feed(batches(), len(data))


def _labels(values: Sequence[Any]) -> Any:
    """Collect labels: one label an example as a list of numbers, several as rows, padded with the number for none."""
    if all(isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1 for value in values):
        return _stacked(values, NO_LABEL)
    return [value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value for value in values]


def _names(item: Any, model: Any) -> list[str]:
    """Return the columns that the model takes, the tokens first; other columns, such as the text, are left out."""
    if not isinstance(item, Mapping):
        raise TypeError(f"An item of a data set must be a mapping, as after tokenization; got {type(item).__name__}.")
    takes = inspect.signature(getattr(model, "forward", model)).parameters
    names = [name for name in item if name in takes and name not in LABELS and not isinstance(item[name], str)]
    if not names:
        raise ValueError(
            f"The data set's columns ({', '.join(map(repr, item))}) hold nothing that the model takes: tokenize first, "
            "data.map(lambda rows: tokenizer(rows['text'], truncation=True), batched=True)."
        )
    return sorted(names, key=lambda name: name != "input_ids")


def _stacked(values: Sequence[Any], padding: int) -> Tensor:
    tensors = [torch.as_tensor(value, device="cpu") for value in values]
    if tensors[0].dim() != 1:
        return torch.stack(tensors)
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)
