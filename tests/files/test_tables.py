"""Files of texts: every kind, what is in them, and what is said where they cannot be read."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from captum_attattr.files.examples import Example, read_examples

KINDS = {
    "tab-separated": (
        "x.tsv",
        'sentence\tlabel\na "good" film\t1\n"so" it\'s\t0\n',
        [('a "good" film', None, "1"), ('"so" it\'s', None, "0")],
    ),
    "tab-separated, in quotes": ("x.tsv", 'sentence\n"a ""good"" film"\n', [('a "good" film', None, None)]),
    "comma-separated": (
        "x.csv",
        'label,text\n1,"warm, funny\nfilm"\n0,"""dull"""\n',
        [("warm, funny\nfilm", None, "1"), ('"dull"', None, "0")],
    ),
    "JSON lines": (
        "x.jsonl",
        '{"text": "a film", "label": 1}\n{"label": null, "text": "dull"}\n',
        [("a film", None, "1"), ("dull", None, "")],
    ),
    "pairs": ("x.jsonl", '{"sentence": "How?", "pair": "Why?"}', [("How?", "Why?", None)]),
    "a text a line": (
        "x.txt",
        "a film, warm\tand funny\ndull\n",
        [("a film, warm\tand funny", None, None), ("dull", None, None)],
    ),
    "no ending": ("reviews", "a film\n", [("a film", None, None)]),
    "tab-separated by its header": ("x.txt", "sentence\tlabel\na film\t1\n", [("a film", None, "1")]),
    "JSON lines by their brace": ("x.json", '{"text": "a film"}\n', [("a film", None, None)]),
    "from Windows": ("x.csv", "\ufefftext\r\na film\r\n", [("a film", None, None)]),
    "with other separators of lines": ("x.txt", "a\u2028film\x0b!\n", [("a\u2028film\x0b!", None, None)]),
}


@pytest.mark.parametrize(("name", "content", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_file(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_examples(tmp_path / name) == [Example(*one) for one in expected]


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a warm film\ndull\n")))
    assert [example.text for example in read_examples("-")] == ["a warm film", "dull"]


def test_another_column(tmp_path):
    (tmp_path / "x.csv").write_text("review,sentence\nwarm,no\n")
    assert [example.text for example in read_examples(tmp_path / "x.csv", column="review")] == ["warm"]


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.txt"])
def test_blank_lines_are_left_out_and_counted(tmp_path, name):
    (tmp_path / name).write_text("sentence\na film\n\n   \ndull\n\n" if name != "x.txt" else "a film\n\n   \ndull\n\n")
    with pytest.warns(UserWarning, match="3 blank lines were left out"):
        assert [example.text for example in read_examples(tmp_path / name)] == ["a film", "dull"]


def test_labels_count_only_where_they_are_needed(tmp_path):
    (tmp_path / "x.tsv").write_text("sentence\tlabel\na film\t\n")
    assert read_examples(tmp_path / "x.tsv")[0].text == "a film"
    with pytest.raises(ValueError, match="line 2: the label is empty"):
        read_examples(tmp_path / "x.tsv", labelled=True)


BAD = {
    "no column": (
        "x.csv",
        "review,stars\nwarm,5\n",
        {},
        r"no column 'sentence' or 'text' .* its columns are 'review', 'stars'\. Rename",
    ),
    "not this column": (
        "x.csv",
        "review\nwarm\n",
        {"column": "body"},
        r"no column 'body' .* its columns are 'review'\.$",
    ),
    "no rows": ("x.tsv", "sentence\n", {}, "x.tsv holds no texts"),
    "empty": ("x.txt", "", {}, "x.txt holds no texts"),
    "no labels": (
        "x.tsv",
        "sentence\nwarm\n",
        {"labelled": True},
        "needs the column 'label': its columns are 'sentence'",
    ),
    "an empty text": ("x.csv", "text,label\nwarm,1\n,0\n", {}, "line 3: the text is empty"),
    "too many cells": ("x.tsv", "sentence\nwarm\tcold\n", {}, "line 2 has 2 cells, the header has 1"),
    "quotes that do not end": ("x.csv", 'text\n"warm\n', {}, "x.csv cannot be read: unexpected end of data"),
    "no JSON": ("x.jsonl", '{"text": "warm"}\nwarm\n', {}, "line 2 is no JSON"),
    "JSON of another kind": ("x.jsonl", "[1]\n", {}, "line 1 holds a list, expected an object"),
}


@pytest.mark.parametrize(("name", "content", "options", "message"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_read_says_what_was_found(tmp_path, name, content, options, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / name, **options)
