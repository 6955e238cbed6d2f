"""The README's Python runs as it stands there, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.figure
import pytest

from captum_attattr.demo import load_demo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def prepared():
    model, tokenizer = load_demo()
    encoded = tokenizer("The plot was interesting but the execution was poor.", return_tensors="pt")
    return {"model": model, "input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def test_python(prepared):
    assert BLOCKS
    for block in BLOCKS:
        exec(block, prepared)
    attributions = prepared["attributions"]
    tokens = prepared["input_ids"].shape[1]
    assert [attribution.shape for attribution in attributions] == [(1, 12, tokens, tokens)] * 6
    assert isinstance(prepared["figure"], matplotlib.figure.Figure)


def test_links():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
