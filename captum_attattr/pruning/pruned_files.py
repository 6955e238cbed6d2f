"""Pruned models in folders: saved so that they cannot be loaded wrongly, and loaded again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import transformers
from pydantic import Field
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from captum_attattr.attention import HeadNumbers, attention_layers
from captum_attattr.files.records import Record, checked, parsed
from captum_attattr.files.writing import filling
from captum_attattr.pruning.cutting import RECORD, prune_heads, record

# Stored as the model's attention implementation: building the model then fails with this text, but its tokenizer loads.
_POINTER = "heads were cut out, load it with captum_attattr.load_pruned(folder)"
_CONFIG = "config.json"
_MOST_LAYERS = 10_000
# Old weights that transformers might load in place of the new ones: sharded or pickled.
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def save_pruned(model: PreTrainedModel, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
    """Write a pruned model to a folder from which :func:`load_pruned` rebuilds it.

    The folder holds what ``save_pretrained`` writes: weights as safetensors, configuration, tokenizer. The
    configuration also lists the pruned heads, if any. A plain ``from_pretrained`` cannot build such a model, and fails
    with a message that names ``load_pruned``.

    Files are written to a temporary folder first. At any time, even if the process ends, the folder holds the old
    model, the new one, or none.

    Args:
        model: A model of transformers, pruned by :func:`prune_heads`. A model that lost no head is written as usual.
        folder: Is made if it does not exist.
        tokenizer: The tokenizer or image processor to save with the model.

    Raises:
        TypeError: ``model`` is no model of transformers, or the tokenizer cannot be saved.
        ValueError: ``folder`` is a file, or cannot be written.

    Example:
        >>> import tempfile
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.pruning import load_pruned, prune_heads, save_pruned
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
    with filling("The pruned model", folder, _CONFIG, _WEIGHTS) as part:
        model.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        path = part / _CONFIG
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings[RECORD] = record(HeadNumbers.from_layer(layer) for layer in attention_layers(model))
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
    """Load a pruned model from a folder, in evaluation mode.

    The model is built from its configuration and pruned before its weights are loaded; every weight must then be in the
    folder, in the right shape.

    Args:
        folder: A folder that :func:`save_pruned` wrote, or the pruned model's own ``save_pretrained`` (as for the
            checkpoints of a Trainer).
        model_class: The model's class, if it is not the class of transformers that the configuration names.
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
            folder,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **{"trust_remote_code": False, "use_safetensors": True, **options},
        )
    except MemoryError:
        raise
    except Exception as error:  # transformers may fail in any way on damaged files
        raise ValueError(f"The pruned model in {name} could not be loaded: {reason_of(error)}") from error
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        found = "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:3])}" for key, names in wrong.items() if names)
        raise ValueError(
            f"The weights in {name} are not those of the model that its {_CONFIG} describes ({found}). Save it anew."
        )
    model.__class__ = family
    return model


def _configuration(folder: str | os.PathLike[str]) -> tuple[PreTrainedConfig, dict[int, list[int]]]:
    """Read the model's own configuration and the pruned heads."""
    path = Path(folder) / _CONFIG
    if not path.is_file():
        raise ValueError(f"There is no pruned model in {os.fspath(folder)}: no {_CONFIG} there.")
    try:
        settings = parsed(path.read_bytes())
        if settings.get(RECORD) is None:
            raise ValueError("it lists no pruned heads; load the model with from_pretrained")
        gone = checked(_Gone, {"heads": settings[RECORD]}).heads
        settings.pop("attn_implementation", None)
        config = AutoConfig.for_model(settings.pop("model_type", None), **settings)
        check_depth(config)
        return config, {int(layer): heads for layer, heads in gone.items()}
    except Exception as error:  # as above
        raise ValueError(f"{path} is not the configuration of a pruned model: {reason_of(error)}") from error


class _Gone(Record):
    heads: dict[Annotated[str, Field(pattern="^[0-9]{1,6}$")], list[int]]


def _class_of(config: PreTrainedConfig, name: str) -> type[PreTrainedModel]:
    named = config.architectures
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    found = getattr(transformers, architecture, None) if architecture else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(
            f"{_CONFIG} in {name} says that the model is a {architecture or 'model without a name'!r}, which "
            "transformers does not have: give its class, load_pruned(folder, model_class=...)."
        )
    return found


def _pruning(family: type[PreTrainedModel], gone: Mapping[int, list[int]]) -> type[PreTrainedModel]:
    """Make a subclass whose models are pruned as soon as they are built, before their weights are loaded."""

    def __init__(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        family.__init__(self, *args, **kwargs)
        prune_heads(self, gone)

    return type(family.__name__, (family,), {"__init__": __init__, "__module__": family.__module__})


def check_depth(config: PreTrainedConfig) -> None:
    """Refuse more layers than any model has: a damaged number would keep the process building layers for long.

    Raises:
        ValueError: There are too many layers.
    """
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise ValueError(f"{_CONFIG} says {layers} layers, at most {_MOST_LAYERS} are built")


def reason_of(error: Exception) -> str:
    """Return the reason of an error in one line."""
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    return reason if isinstance(error, (ValueError, OSError)) and reason else f"{type(error).__name__}: {reason}"
