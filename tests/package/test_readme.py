"""The README's Python runs as it stands there, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.figure

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_as_it_is_pasted():
    assert BLOCKS
    names = {}
    for block in BLOCKS:
        exec(block, names)
    tokens = names["inputs"]["input_ids"].shape[1]
    assert [attribution.shape for attribution in names["attributions"]] == [(1, 12, tokens, tokens)] * 6
    assert isinstance(names["figure"], matplotlib.figure.Figure)


def test_links():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
