"""Results as files: those of single steps, kept as they come, and the figures at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from tqdm import tqdm

P = ParamSpec("P")


class Store:
    """Results by name, one a line, after a line with the settings that they belong to: broken off, a run goes on.

    The number of threads is one of the settings where time or memory is measured. Elsewhere a run may go on with
    another: what is computed then differs by rounding alone, about 1e-6 of a model's output in float32.

    Args:
        file: Where they are kept.
        settings: What a run that goes on must have the same of.
        about: Number of results, about, for a progress bar.
    """

    def __init__(self, file: Path, settings: dict[str, Any], about: int | None = None) -> None:
        self.file = file
        self.results: dict[str, Any] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        kept = dict(pair for pair in map(_pair, lines) if pair)
        if kept.pop("settings", settings) != json.loads(json.dumps(settings)) and lines:
            raise SystemExit(f"{file} was made with other settings: give another --output, or delete it.")
        self.results = kept
        if lines:
            self._write("")  # ends a line that an earlier run may have left unfinished
        else:
            self._write(json.dumps(["settings", settings]))
        self._bar = tqdm(initial=len(kept), total=about, unit="result", smoothing=0.05, disable=about is None)

    def get(self, name: str, work: Callable[P, object], *args: P.args, **options: P.kwargs) -> Any:
        """The result of that name as JSON gives it back; ``work`` is called where it is not known yet."""
        if name not in self.results:
            line = json.dumps([name, work(*args, **options)])
            self._write(line)
            self.results[name] = json.loads(line)[1]
            self._bar.update()
        return self.results[name]

    def finish(self, figures: dict[str, Any], text: str) -> None:
        """Write the figures and the text, and remove the results of single steps."""
        publish(self.file.with_suffix(""), figures, text)
        self.file.unlink()

    def _write(self, line: str) -> None:
        with open(self.file, "a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def _pair(line: str) -> tuple[str, Any] | None:
    """A line's name and result; None for a line that was cut short."""
    try:
        name, result = json.loads(line)
    except ValueError:
        return None
    return name, result


def publish(path: Path, figures: dict[str, Any], text: str) -> None:
    """Write the figures as JSON and the text as Markdown, and print the text."""
    path.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
