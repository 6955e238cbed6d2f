"""Checkpoints of long runs over a data set: a file for each process, with which an interrupted run continues."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from captum_attattr.files.digest import Digest, bytes_of
from captum_attattr.files.records import Count, Sealed, check_settings, seal, unseal
from captum_attattr.files.writing import only_here, write_text
from captum_attattr.heads.moments import Moments, MomentsRecord
from captum_attattr.heads.processes import raise_together, rank_and_size

FORMAT_VERSION = 1


def model_fingerprint(model: nn.Module | Iterable[nn.Module]) -> dict[str, str]:
    """Compute short hashes of a model's configuration and weights, to tell models apart.

    Args:
        model: The model, or those of its modules that are known.
    """
    modules = [model] if isinstance(model, nn.Module) else list(model)
    words, weights = hashlib.sha256(), hashlib.sha256()
    for module in modules:
        words.update(_configuration(module).encode())
        for name, tensor in module.state_dict().items():
            words.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            weights.update(bytes_of(tensor))
    return {"model's configuration": words.hexdigest()[:16], "model's weights": weights.hexdigest()[:16]}


def _configuration(module: nn.Module) -> str:
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    # A model's origin, and the version that wrote it, do not affect its results.
    left_out = ("_name_or_path", "transformers_version")
    return json.dumps({k: v for k, v in settings.items() if k not in left_out}, sort_keys=True, default=str)


class Checkpoint:
    """The checkpoint of a run over batches, in a file for each process; without a path nothing is stored.

    Attributes:
        batches: Number of batches that are done.
        examples: Number of examples in them.
        moments: The moments over these examples.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], before: _State | None) -> None:
        self._path, self._settings = path, settings
        self.batches: int = 0 if before is None else before.batches
        self.examples: int = 0 if before is None else before.examples
        self._digest: str = str(Digest()) if before is None else before.digest
        found = None if before is None else before.moments
        self.moments = None if found is None else Moments.from_state_dict(found.model_dump())

    @classmethod
    @contextmanager
    def open(cls, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Iterator[Checkpoint]:
        """Read the file if it exists, and lock it against other runs until the block ends; every process must call it.

        Raises:
            ValueError: On every process, if the file of any is damaged, of a run with other settings, or in use.
        """
        if path is None:
            yield cls(None, settings, None)
            return
        rank, _ = rank_and_size()
        own = Path(path) if rank == 0 else Path(f"{os.fspath(path)}.{rank}")
        with ExitStack() as stack:
            try:
                stack.enter_context(only_here(own))
                state = cls._read(own, settings)
            except ValueError as error:
                raise_together(str(error))
                raise  # not reached: the line above raises at least this process's own error
            raise_together(None)
            yield state

    @classmethod
    def _read(cls, path: Path, settings: Mapping[str, Any]) -> Checkpoint:
        """Read the file if its run had the same settings; without a file begin a new run."""
        try:
            before = unseal(_State, path.read_bytes(), FORMAT_VERSION)
            count = 0 if before.moments is None else before.moments.count
            if not count <= before.examples or not before.batches <= before.examples:
                raise ValueError(f"{count} of {before.examples} examples in {before.batches} batches is impossible")
            state = cls(path, settings, before)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, settings, None)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no checkpoint, or is damaged: {error}. Delete it to start anew.") from error
        check_settings(path, before.settings, settings, "delete it to start anew")
        return state

    def check(self, batches: int, digest: Digest, *, ended: bool = False) -> None:
        """Check that the data begin with the batches of the checkpoint.

        Args:
            batches: Number of batches so far.
            digest: Digest of all of them.
            ended: Whether there are no more.

        Raises:
            ValueError: The batches differ, or there are fewer.
        """
        if (batches == self.batches and str(digest) != self._digest) or (ended and batches < self.batches):
            raise ValueError(
                f"{self._path} is of a run over other data: its first {self.batches} batches differ from these. Give "
                "the same data in the same order (a DataLoader that shuffles gives another order), or delete the file "
                "to start anew."
            )

    def write(self, batches: int, count: int, digest: Digest, moments: Moments | None) -> None:
        """Replace the file in one step, so that it is complete at any time.

        Args:
            batches: Number of batches so far, of all processes.
            count: Number of examples in the last of them.
            digest: Digest of all batches.
            moments: The moments of this process.

        Raises:
            ValueError: The file cannot be written.
        """
        if self._path is None:
            return
        self.examples += count
        state = {
            "version": FORMAT_VERSION,
            "settings": self._settings,
            "batches": batches,
            "examples": self.examples,
            "digest": str(digest),
            "moments": None if moments is None else moments.state_dict(),
        }
        write_text("The checkpoint", self._path, json.dumps(seal(state)))


class _State(Sealed):
    settings: dict[str, Any]
    batches: Count
    examples: Count
    digest: str
    moments: MomentsRecord | None
