"""Loading of models and tokenizers by name: from the Hub, a folder, a pruned model's folder, or the bundled one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from captum_attattr.demo import load_demo
from captum_attattr.pruning.pruned_files import check_depth, is_pruned, load_pruned, reason_of

_PATIENCE = 2.5
"""Seconds to wait for the Hub's word that it has a model."""


def load_classifier(name: str | os.PathLike[str] | None = None, tokenizer: Any = None) -> tuple[nn.Module, Any]:
    """Load a sequence classification model in eval mode, float32, and its tokenizer.

    Args:
        name: A folder (of a pruned model, too), a name on the Hugging Face Hub, or None for the bundled model.
        tokenizer: A tokenizer to use in place of the model's own.

    Raises:
        ValueError: There is no such model, or it has no trained classification head or no tokenizer.

    Example:
        >>> from captum_attattr.text.model_loading import load_classifier
        >>> model, tokenizer = load_classifier()
        >>> model.config.id2label[1]
        'positive'
    """
    local = name is None or Path(name).is_dir()
    with quiet(progress=not local):
        if name is None:
            model, own_tokenizer = load_demo()
            return model, own_tokenizer if tokenizer is None else tokenizer
        _check_name(os.fspath(name))
        if not local:
            _check_hub(os.fspath(name))
        try:
            if local and is_pruned(name):
                model = load_pruned(name, dtype=torch.float32)
                missing = set[str]()  # an error there
            else:
                config = AutoConfig.from_pretrained(name, trust_remote_code=False)
                check_depth(config)
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    name,
                    config=config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
                missing = info["missing_keys"]
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except MemoryError:
            raise
        except Exception as error:  # transformers may fail in any way on damaged files
            where = "this folder" if local else "a folder or the Hugging Face Hub"
            raise ValueError(
                f"No classification model could be loaded as {os.fspath(name)!r} from {where}: {reason_of(error)}"
                f"{_not_run(name, error)}"
            ) from error
    _check_loaded(os.fspath(name), missing, tokenizer)
    return model.eval(), tokenizer


def _not_run(name: str | os.PathLike[str], error: Exception) -> str:
    """Return advice if a model was not loaded because that would, or could, run code that came with it."""
    if "trust_remote_code" in str(error):
        return " Code that comes with a model is not run here: load the model yourself, and give model and tokenizer."
    if any(Path(name).glob("pytorch_model*.bin")) and not any(Path(name).glob("*.safetensors")):
        return " Its weights are pickled and not read here: load and save it once, with model.save_pretrained(folder)."
    return ""


def _check_name(name: str) -> None:
    """Refuse a name that is meant as a folder but is none, before the Hub is asked for it."""
    if not name.strip():
        raise ValueError("The model's name is empty: give a folder or a name on the Hugging Face Hub.")
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: give the folder that holds config.json, the weights and the tokenizer.")
    if name.startswith((".", "~", os.sep)) and not Path(name).is_dir():
        raise ValueError(f"There is no folder {name} to load a model from.")


def _check_hub(name: str) -> None:
    """Ask the Hub for a model that is not on this machine, once and not for long: transformers would ask many times.

    Raises:
        ValueError: It has no such model, or cannot be reached.
    """
    advice = (
        f"Is the name right ('bert-base-uncased', 'owner/name')? Is there a folder {name!r} here? A private model "
        "needs a login (hf auth login)."
    )
    try:
        known = isinstance(try_to_load_from_cache(name, "config.json"), str)
        if not known and not constants.HF_HUB_OFFLINE:
            HfApi().model_info(name, timeout=_PATIENCE)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"There is no model {name!r} in a folder of that name or on the Hugging Face Hub. {advice}"
        ) from error
    except HfHubHTTPError:
        return  # a mirror of files alone: transformers asks it for these
    except Exception as error:  # any way in which a network may fail
        raise ValueError(
            f"{name!r} is no folder and not on this machine yet, and the Hugging Face Hub could not be asked for it "
            f"({type(error).__name__}). {advice}"
        ) from error


def _check_loaded(name: str, missing: Collection[str], tokenizer: Any) -> None:
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise ValueError(
            f"{name!r} has no trained classification head ({some} missing): its predictions would be random. "
            "Fine-tune it first, as tutorials/finetune_sst2.py does."
        )
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes such a tokenizer for a folder without tokenizer files.
        raise ValueError(f"{name!r} holds no tokenizer: save it there, too (tokenizer.save_pretrained), or give one.")


@contextmanager
def quiet(*, progress: bool) -> Iterator[None]:
    """Suppress transformers' reports of loading and, unless ``progress``, its progress bars."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        if not progress:
            logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
