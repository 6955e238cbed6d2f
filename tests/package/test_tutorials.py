"""The notebooks run from the first cell to the last, in time, and are saved with what they put out."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install '.[tutorials]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install '.[tutorials]'")

FOLDER = Path(__file__).parents[2] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Two minutes is what a reader is promised; a machine that does other work beside may take longer.
SECONDS = 600
# Each takes a minute or two, of the twenty that CI has for everything: one a day, or all with --turns all.
OF_TODAY = NOTEBOOKS[datetime.datetime.now(tz=datetime.UTC).toordinal() % max(len(NOTEBOOKS), 1) :][:1]


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, request):
    if path not in OF_TODAY and request.config.getoption("--turns") == "today":
        pytest.skip("another day's notebook: --turns all")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    assert said == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_as_it_ran(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell.outputs]
    assert outputs
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_question_and_ends_with_what_to_try_next(path):
    words = [cell.source for cell in cells(path, "markdown")]
    assert "?" in words[0] or "**The question.**" in words[0]
    assert re.search("to try next|try next", words[-1], re.IGNORECASE)
