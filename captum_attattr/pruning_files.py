"""Pruned models in folders: written so that nothing loads them wrongly, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from captum_attattr.attention import attention_layers
from captum_attattr.masking import HeadNumbers
from captum_attattr.pruning import RECORD, prune_heads, record

# As its attention implementation this stops whoever builds the model, while its tokenizer can still be loaded.
_POINTER = "heads were cut out, load it with captum_attattr.load_pruned(folder)"
_CONFIG = "config.json"


def save_pruned(model: PreTrainedModel, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
    """Write a pruned model to a folder from which :func:`load_pruned` rebuilds it.

    The folder holds what ``save_pretrained`` writes: weights as safetensors, configuration, tokenizer. The
    configuration also says which heads are gone and, where some are, lets a plain ``from_pretrained``, which cannot
    build such a model, fail with a message that names ``load_pruned``.

    Args:
        model: A model of transformers, pruned by :func:`prune_heads`. One that lost no head is written as usual.
        folder: Is made if it does not exist.
        tokenizer: The tokenizer or image processor to be kept with it.

    Raises:
        TypeError: ``model`` is no model of transformers, or the tokenizer cannot be saved.
        ValueError: ``folder`` is a file.

    Example:
        >>> import tempfile
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.pruning import prune_heads
        >>> from captum_attattr.pruning_files import load_pruned, save_pruned
        >>> model, tokenizer = load_demo()
        >>> model = prune_heads(model, {0: range(6)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(model, folder, tokenizer)
        ...     load_pruned(folder).num_parameters() == model.num_parameters()
        True
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"save_pruned needs a model of transformers, got {type(model).__name__}.")
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise TypeError(f"tokenizer must be a tokenizer or processor of transformers, got {type(tokenizer).__name__}.")
    if Path(folder).is_file():
        raise ValueError(f"{os.fspath(folder)} is a file: give a folder.")
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    path = Path(folder) / _CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings[RECORD] = record(HeadNumbers.of(layer) for layer in attention_layers(model))
    if settings[RECORD]:
        settings["attn_implementation"] = _POINTER
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def is_pruned(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a pruned model, written by :func:`save_pruned` or by its own ``save_pretrained``."""
    path = Path(folder) / _CONFIG
    return path.is_file() and f'"{RECORD}"' in path.read_text(encoding="utf-8", errors="replace")


def load_pruned(
    folder: str | os.PathLike[str], model_class: type[PreTrainedModel] | None = None, **options: Any
) -> PreTrainedModel:
    """Read a pruned model back from a folder, in evaluation mode.

    The model is built from its configuration, the same heads are cut out while it is empty, and every weight must
    then be found in the folder, in the right shape.

    Args:
        folder: As :func:`save_pruned` wrote it, or the pruned model's own ``save_pretrained`` (checkpoints of a
            Trainer).
        model_class: The model's class, where it is not the one of transformers that the configuration names.
        **options: Options of ``from_pretrained``: ``dtype`` (by default that of the saved weights), ``device_map``,
            ``attn_implementation`` and others.

    Raises:
        ValueError: There is no folder, it holds no pruned model, or files in it are missing, broken or do not fit
            together. The message says which.

    Example: see :func:`save_pruned`.
    """
    name = os.fspath(folder)
    config, gone = _configuration(folder)
    family = model_class or _class_of(config, name)
    try:
        model, info = _pruning(family, gone).from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The pruned model in {name} could not be loaded: {_reason(error)}") from error
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        found = "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:3])}" for key, names in wrong.items() if names)
        raise ValueError(
            f"The weights in {name} are not those of the model that its {_CONFIG} describes ({found}). Save it anew."
        )
    model.__class__ = family
    return model


def _configuration(folder: str | os.PathLike[str]) -> tuple[PreTrainedConfig, dict[int, list[int]]]:
    """The model's own configuration and the heads that are gone."""
    path = Path(folder) / _CONFIG
    if not path.is_file():
        raise ValueError(f"There is no pruned model in {os.fspath(folder)}: no {_CONFIG} there.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        gone = settings[RECORD] if isinstance(settings, dict) and RECORD in settings else None
        if gone is None:
            raise ValueError("it names no heads that were cut out; load the model with from_pretrained")
        settings.pop("attn_implementation", None)
        gone = {int(layer): [int(head) for head in heads] for layer, heads in gone.items()}
        config = AutoConfig.for_model(settings.pop("model_type", None), **settings)
    except (ValueError, TypeError, AttributeError, KeyError, StrictDataclassError) as error:
        raise ValueError(f"{path} is not the configuration of a pruned model: {_reason(error)}") from error
    return config, gone


def _class_of(config: PreTrainedConfig, name: str) -> type[PreTrainedModel]:
    architecture = (config.architectures or [""])[0]
    found = getattr(transformers, architecture, None) if architecture else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(
            f"{_CONFIG} in {name} says that the model is a {architecture or 'model without a name'!r}, which "
            "transformers does not have: give its class, load_pruned(folder, model_class=...)."
        )
    return found


def _pruning(family: type[PreTrainedModel], gone: Mapping[int, list[int]]) -> type[PreTrainedModel]:
    """The family with its heads cut out as soon as a model is built, before weights are looked for."""

    def __init__(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        family.__init__(self, *args, **kwargs)
        prune_heads(self, gone)

    return type(family.__name__, (family,), {"__init__": __init__, "__module__": family.__module__})


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
