"""Files of explanations: tensors as safetensors, the other fields in its metadata, and all of it checked on reading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_attattr.engine.path_kinds import path_named
from captum_attattr.files.digest import Digest
from captum_attattr.files.records import Count, Record, Sealed, checked, seal, unseal
from captum_attattr.files.writing import writing
from captum_attattr.text.model_output import Kind
from captum_attattr.text.words import Span

FORMAT_VERSION = 2
"""Files of version 1 have no spans and no layerwise attributions."""
TENSORS = ("probabilities", "attributions", "attention", "delta")

_HEADER, _LAYERWISE = "captum_attattr", "layerwise"
# No model has so many layers. Pictures draw all layers up to the largest number, so a damaged one could not be drawn.
_MOST_LAYERS = 10_000


class _Settings(Record):
    """The settings that the package reads; there may be others."""

    model_config = ConfigDict(extra="allow")
    output: Kind
    path: Annotated[str, AfterValidator(lambda name: path_named(name).name)]
    baseline: str = ""


_Span = Annotated[list[Count], Field(min_length=3, max_length=3)]
"""Number of the text, first character, and the one after the last."""


class _Words(Record):
    text: str
    text_pair: str | None
    tokens: Annotated[list[str], Field(min_length=1)]
    special: list[bool]
    labels: Annotated[list[str], Field(min_length=1)]
    target: Count
    output: float
    layers: list[Annotated[int, Field(ge=0, lt=_MOST_LAYERS)]]
    settings: _Settings
    evaluations: list[Count]
    spans: list[_Span | None] = Field(default_factory=list)
    layerwise: _Words | None = None


class _Header(_Words, Sealed):
    numbers: str
    """Digest of the tensors."""


def write_explanation(path: str | os.PathLike[str], given: Mapping[str, Any]) -> Path:
    """Write the fields of an explanation, with those of its layerwise one as a mapping.

    Raises:
        ValueError: The fields do not fit together, or the file cannot be written.
    """
    words, tensors = _apart(given)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check(checked(_Words, words), tensors)
    header = seal({"version": FORMAT_VERSION, "numbers": _digest(tensors), **words})
    with writing("The explanation", path) as file:
        save_file(tensors, file, metadata={_HEADER: json.dumps(header)})
    return Path(path)


def _apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the words among the fields, and the tensors."""
    words = {name: value for name, value in given.items() if name not in TENSORS}
    words["spans"] = [None if span is None else list(span) for span in given["spans"]]
    tensors = {name: given[name] for name in TENSORS}
    if given[_LAYERWISE] is not None:
        words[_LAYERWISE], others = _apart(given[_LAYERWISE])
        tensors |= {f"{_LAYERWISE}.{name}": tensor for name, tensor in others.items()}
    return words, tensors


def read_explanation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of an explanation from a file that :func:`write_explanation` wrote, as they were given to it.

    Raises:
        ValueError: There is no such file, or it is damaged, no explanation, or of a newer version.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path} to read an explanation from.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is None:
                raise ValueError("it is not a saved explanation")
            found = unseal(_Header, header, FORMAT_VERSION)
            inner = [f"{_LAYERWISE}.{name}" for name in TENSORS if found.layerwise is not None]
            tensors = {name: file.get_tensor(name) for name in (*TENSORS, *inner)}
        _check(found, tensors)
        if found.numbers != _digest(tensors):
            raise ValueError("its tensors are not those that were written: they were changed later")
    except (OSError, SafetensorError, LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a saved explanation, it may be damaged: {error}") from error
    return _together(found, tensors)


def _together(words: _Words, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields: the reverse of :func:`_apart`."""
    found = {**words.model_dump(include=set(_Words.model_fields), exclude_unset=True), **_outer(tensors)}
    found["spans"] = [None if span is None else Span(*span) for span in words.spans]
    found[_LAYERWISE] = None if words.layerwise is None else _together(words.layerwise, _inner(tensors))
    return found


def _outer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name in TENSORS}


def _inner(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{_LAYERWISE}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _check(words: _Words, tensors: Mapping[str, Tensor]) -> None:
    """Check that the fields fit together, so that nothing fails later.

    Raises:
        ValueError: They do not. The message says which.
    """
    _check_tensors(words, _outer(tensors))
    _check_words(words)
    if words.layerwise is not None:
        _check(words.layerwise, _inner(tensors))
        for name in ("text", "text_pair", "tokens", "special", "spans", "labels", "target", "output"):
            if getattr(words, name) != getattr(words.layerwise, name):
                raise ValueError(f"the layerwise explanation is of another {name}")


def _check_tensors(words: _Words, tensors: Mapping[str, Tensor]) -> None:
    shape, count = tuple(tensors["attributions"].shape), len(words.tokens)
    if len(shape) != 4 or 0 in shape or shape[0] != len(words.layers) or shape[2:] != (count, count):
        raise ValueError(
            f"the attributions have the shape {shape}; expected is (layer, head, token, token) for {len(words.layers)} "
            f"layers and {count} tokens"
        )
    expected = {
        "probabilities": (len(words.labels),),
        "attributions": shape,
        "attention": shape,
        "delta": (_paths(words),),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)} and type {tensor.dtype}; expected is {expected[name]}, "
                "float32 or float64"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds numbers that are NaN or infinite")
    probabilities = tensors["probabilities"]
    if words.settings.output != "given" and bool(((probabilities < -1e-6) | (probabilities > 1 + 1e-6)).any()):
        raise ValueError(f"the probabilities {probabilities.tolist()[:5]} are not between 0 and 1")


def _paths(words: _Words) -> int:
    return 1 if path_named(words.settings.path).layers_add_up else len(words.layers)


def _check_words(words: _Words) -> None:
    count, paths = len(words.tokens), _paths(words)
    ends = [len(text) for text in (words.text, words.text_pair) if text is not None]
    inside = all(span is None or (span[0] < len(ends) and span[1] <= span[2] <= ends[span[0]]) for span in words.spans)
    wrong = {
        f"special is for {len(words.special)} tokens of {count}": len(words.special) != count,
        f"spans is for {len(words.spans)} tokens of {count}": len(words.spans) not in (0, count),
        "spans has characters outside of the text": not inside,
        f"target {words.target} is none of the {len(words.labels)} labels": words.target >= len(words.labels),
        f"layers {words.layers} hold one layer twice": len(set(words.layers)) < len(words.layers),
        f"there are {len(words.evaluations)} evaluations for {paths} paths": len(words.evaluations) not in (0, paths),
    }
    for message, is_so in wrong.items():
        if is_so:
            raise ValueError(message)
    try:
        json.dumps(words.settings.model_dump(), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the settings are not plain and finite: {error}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = Digest()
    digest.add({name: tensors[name] for name in (*TENSORS, *sorted(set(tensors) - set(TENSORS)))})
    return str(digest)
