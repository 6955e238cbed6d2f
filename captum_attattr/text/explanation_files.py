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

FORMAT_VERSION = 1
TENSORS = ("probabilities", "attributions", "attention", "delta")

_HEADER = "captum_attattr"
# No model has so many layers. Pictures draw all layers up to the largest number, so a damaged one could not be drawn.
_MOST_LAYERS = 10_000


class _Settings(Record):
    """The settings that the package reads; there may be others."""

    model_config = ConfigDict(extra="allow")
    output: Kind
    path: Annotated[str, AfterValidator(lambda name: path_named(name).name)]
    baseline: str = ""


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


class _Header(_Words, Sealed):
    numbers: str
    """Digest of the tensors."""


def write_explanation(path: str | os.PathLike[str], words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write the fields of an explanation: ``words`` are all fields but the tensors.

    Raises:
        ValueError: The fields do not fit together, or the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check(checked(_Words, words), tensors)
    header = seal({"version": FORMAT_VERSION, "numbers": _digest(tensors), **words})
    with writing("The explanation", path) as file:
        save_file(tensors, file, metadata={_HEADER: json.dumps(header)})
    return Path(path)


def read_explanation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of an explanation from a file that :func:`write_explanation` wrote.

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
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        _check(found, tensors)
        if found.numbers != _digest(tensors):
            raise ValueError("its tensors are not those that were written: they were changed later")
    except (OSError, SafetensorError, LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a saved explanation, it may be damaged: {error}") from error
    return {**found.model_dump(include=set(_Words.model_fields), exclude_unset=True), **tensors}


def _check(words: _Words, tensors: Mapping[str, Tensor]) -> None:
    """Check that the fields fit together, so that nothing fails later.

    Raises:
        ValueError: They do not. The message says which.
    """
    shape, count = tuple(tensors["attributions"].shape), len(words.tokens)
    paths = 1 if path_named(words.settings.path).layers_add_up else len(words.layers)
    if len(shape) != 4 or 0 in shape or shape[0] != len(words.layers) or shape[2:] != (count, count):
        raise ValueError(
            f"the attributions have the shape {shape}; expected is (layer, head, token, token) for {len(words.layers)} "
            f"layers and {count} tokens"
        )
    expected = {"probabilities": (len(words.labels),), "attributions": shape, "attention": shape, "delta": (paths,)}
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
    wrong = {
        f"special is for {len(words.special)} tokens of {count}": len(words.special) != count,
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
    digest.add({name: tensors[name] for name in TENSORS})
    return str(digest)
