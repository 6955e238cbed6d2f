"""A long run's state on disk, written whole or not at all, and what must be the same to go on with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_attattr.moments import Moments
from captum_attattr.processes import raise_together, rank_and_size


def model_fingerprint(model: nn.Module | Iterable[nn.Module]) -> dict[str, str]:
    """A model's configuration and weights in a few letters each: different models, different letters.

    Args:
        model: The model; where that is out of reach, those parts of it that are at hand.
    """
    modules = [model] if isinstance(model, nn.Module) else list(model)
    words, weights = hashlib.sha256(), hashlib.sha256()
    for module in modules:
        words.update(_configuration(module).encode())
        for name, tensor in module.state_dict().items():
            words.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            weights.update(_bytes(tensor))
    return {"model's configuration": words.hexdigest()[:16], "model's weights": weights.hexdigest()[:16]}


def _configuration(module: nn.Module) -> str:
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    # Where a model came from, and the version that wrote it, are no part of what it computes.
    left_out = ("_name_or_path", "transformers_version")
    return json.dumps({k: v for k, v in settings.items() if k not in left_out}, sort_keys=True, default=str)


class Digest:
    """A running hash of tensors and plain values."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Take in a tensor, a mapping or sequence of values, or anything with a stable ``repr``."""
        if isinstance(value, Tensor):
            self._hash.update(f"{tuple(value.shape)} {value.dtype}".encode() + _bytes(value))
        elif isinstance(value, Mapping):
            for name in value:
                self.add(name)
                self.add(value[name])
        elif isinstance(value, (list, tuple)):
            self._hash.update(f"{len(value)}:".encode())
            for one in value:
                self.add(one)
        else:
            self._hash.update(repr(value).encode())

    def __str__(self) -> str:
        """The hash of all that was taken in so far."""
        return self._hash.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    if tensor.is_meta:  # weights that are kept on disk are not read for this
        return b"meta"
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class Checkpoint:
    """How far a run over batches has come, kept in a file, one for each process; without a path it keeps nothing.

    Attributes:
        batches: How many batches are behind it.
        examples: How many examples they hold.
        moments: What was gathered from them.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], state: Mapping[str, Any] | None) -> None:
        self._path, self._settings = path, settings
        self.batches: int = 0 if state is None else state["batches"]
        self.examples: int = 0 if state is None else state["examples"]
        self._digest: str = str(Digest()) if state is None else state["digest"]
        found = None if state is None else state["moments"]
        self.moments = None if found is None else Moments.from_state_dict(found)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Checkpoint:
        """Go on from the file if it is there; every process must call it.

        Raises:
            ValueError: On every process, if the file of any is damaged or of a run with other settings.
        """
        if path is None:
            return cls(None, settings, None)
        rank, _ = rank_and_size()
        own, state, error = Path(path) if rank == 0 else Path(f"{os.fspath(path)}.{rank}"), None, None
        try:
            state = _read(own, settings)
        except ValueError as found:
            error = str(found)
        raise_together(error)
        return cls(own, settings, state)

    def check(self, batches: int, digest: Digest, *, ended: bool = False) -> None:
        """Make sure that the batches so far are those that were counted.

        Args:
            batches: How many there were so far.
            digest: Of all of them.
            ended: Whether there are no more.

        Raises:
            ValueError: They are not, or there are fewer.
        """
        if (batches == self.batches and str(digest) != self._digest) or (ended and batches < self.batches):
            raise ValueError(
                f"{self._path} is of a run over other data: the first {self.batches} batches were not these. Give the "
                "same data, in the same order (a DataLoader that shuffles gives another), or delete it to start anew."
            )

    def write(self, batches: int, count: int, digest: Digest, moments: Moments | None) -> None:
        """Replace the file in one step, so that whenever the process ends a whole state is there.

        Args:
            batches: How many batches there were so far, this process's and others'.
            count: How many examples the last of them held.
            digest: Of all of them.
            moments: What this process has gathered.

        Raises:
            ValueError: It cannot be written.
        """
        if self._path is None:
            return
        self.examples += count
        gathered = None if moments is None else moments.state_dict()
        state = {"settings": self._settings, "batches": batches, "examples": self.examples, "digest": str(digest)}
        part = self._path.with_name(self._path.name + ".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "w", encoding="utf-8") as file:
                json.dump({**state, "moments": gathered}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path)
        except OSError as error:
            raise ValueError(f"The state of the run cannot be written to {self._path}: {error}") from error


def _read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that is there, if its run had the same settings; None where there is no file."""
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = dict(state["settings"])
        _ = state["batches"] + state["examples"], state["digest"], state["moments"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} holds no state of a run, or is damaged: {error}. Delete it to start anew.") from error
    check_settings(str(path), before, settings)
    return state


def check_settings(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a state belongs to these settings.

    Raises:
        ValueError: It does not. The message names the first that differs.
    """
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{what} is of a run with other settings: there the {name} was {before.get(name)!r}, now it is "
                f"{now.get(name)!r}. Give the same settings to go on with it, or delete it to start anew."
            )
