"""Which texts of a run are explained already, so that the same command goes on after an interrupt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from captum_attattr.files.digest import Digest
from captum_attattr.files.records import Sealed, seal, unseal
from captum_attattr.files.writing import write_text
from captum_attattr.heads.checkpoint import model_fingerprint
from captum_attattr.text.explaining import Explainer
from captum_attattr.text.explanation import Explanation
from captum_attattr.text.request import Request

FORMAT_VERSION = 1
_FILE = "explain.state.json"


class _State(Sealed):
    run: str
    saved: dict[str, str]
    """By number of the text, the stem of its files."""


class Progress:
    """The texts of a run that are done. A run over several texts keeps a file beside the answers until it has ended.

    Args:
        folder: Where the answers are.
        explainer, request: The run; answers of another one are not used.

    Attributes:
        count: Number of texts.
        saved: By index of the text, the stem of its files.
    """

    def __init__(self, folder: Path, explainer: Explainer, request: Request) -> None:
        self._folder, self.count = folder, len(request.texts)
        self._run = "" if self.count == 1 else _digest(explainer, request)
        self.saved: dict[int, str] = self._read()

    @property
    def _file(self) -> Path:
        return self._folder / _FILE

    def _read(self) -> dict[int, str]:
        """Return what an interrupted run has left, if it was this one and its files are there."""
        if not self._run or not self._file.is_file():
            return {}
        try:
            state = unseal(_State, self._file.read_bytes(), FORMAT_VERSION)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file} is damaged: {error}. Delete it to start anew.") from error
        numbers = {int(place): stem for place, stem in state.saved.items() if place.isdecimal()}
        there = {place: stem for place, stem in numbers.items() if all(path.is_file() for path in self._paths(stem))}
        return there if state.run == self._run else {}

    def _paths(self, stem: str) -> list[Path]:
        return [self._folder / f"{Path(stem).name}.{ending}" for ending in ("png", "safetensors")]

    def files(self, place: int) -> dict[str, Path]:
        """Return the files of a text."""
        picture, saved = self._paths(self.saved[place])
        return {"picture": picture, "saved": saved}

    def explanation(self, place: int) -> Explanation:
        """Read the explanation of a text that is done."""
        return Explanation.load(self.files(place)["saved"])

    def done(self, place: int, stem: str) -> None:
        """Note that a text is done, and the stem of its files."""
        self.saved[place] = stem
        if self._run:
            state: dict[str, Any] = {"version": FORMAT_VERSION, "run": self._run}
            state["saved"] = {str(number): name for number, name in sorted(self.saved.items())}
            write_text("The state of the run", self._file, json.dumps(seal(state)))

    def forget(self) -> None:
        """Remove the file: the run has ended."""
        if self._run:
            self._file.unlink(missing_ok=True)


def _digest(explainer: Explainer, request: Request) -> str:
    digest = Digest()
    digest.add([request.texts, request.pairs, request.targets])
    digest.add([explainer.layers, explainer.path, explainer.integration, explainer.baseline, explainer.layerwise])
    digest.add([explainer.classifier.output, model_fingerprint(explainer.classifier.model)])
    return str(digest)
