"""A self-contained page to explore explanations: heads, token pairs, attribution beside attention, the tree."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from captum_attattr.colours import palette
from captum_attattr.files.writing import write_text
from captum_attattr.report import packing
from captum_attattr.text.explanation import Explanation

__all__ = ["Report"]

_PROGRAM = ("numbers.js", "plots.js", "words.js", "heads.js", "page.js")


class Report:
    """An interactive page for one explanation or several: what is read, which words act together, heads and layers.

    The page is one HTML file without network access: its Content-Security-Policy forbids all requests. The pictures are
    drawn by Bokeh, an optional package. In a notebook a report at the end of a cell is shown there.

    A page takes 1.4 MB, and for each text at most 5 bytes a pair of tokens in each head. With many or long texts heads
    are stored coarser, in less than a byte for texts of 25 tokens and more: 100 such texts by the bundled model take
    5 MB. With several texts the page begins with a list of them.

    Args:
        explanations: One explanation or several; where they hold layerwise attributions, the page shows these, too.
        title: Title of the page.

    Raises:
        ValueError: There is no explanation.
        TypeError: An argument is no explanation.
        ImportError: Bokeh is not installed.

    Example:
        >>> from captum_attattr import Report, explain
        >>> report = Report(explain(["A warm, funny film.", "A dull film."]))
        >>> path = report.save("build/films.html")  # doctest: +SKIP
    """

    def __init__(
        self, explanations: Explanation | Sequence[Explanation], title: str = "Self-attention attribution"
    ) -> None:
        self.explanations = [explanations] if isinstance(explanations, Explanation) else list(explanations)
        self.title = title
        if not self.explanations:
            raise ValueError(
                "A report needs at least one explanation, got an empty list: give those that explain() returns."
            )
        for given in self.explanations:
            if not isinstance(given, Explanation):
                raise TypeError(
                    f"A report needs explanations, as explain() returns them; got a {type(given).__name__}."
                )
        self._library = bokeh_source()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file; missing folders are made.

        Raises:
            ValueError: The file cannot be written.
        """
        return write_text("The report", path, self.html)

    @property
    def html(self) -> str:
        """The page as HTML."""
        from captum_attattr.report.figures import document  # needs Bokeh, which is optional

        program = "\n".join(_text(name) for name in _PROGRAM)
        return Template(_text("page.html")).substitute(
            title=html.escape(self.title),
            style=_text("page.css"),
            version=version("captum-attattr"),
            palette=packing.as_script(palette()),
            sentences="\n".join(self._sentences()),
            steps=(steps := packing.steps_of(self.explanations)),
            looks=packing.looks_of(steps),
            figures=packing.as_script(document()),
            library=self._library,
            program=program,
            hashes=" ".join(map(_hash, (self._library, program))),
        )

    def _sentences(self) -> Iterator[str]:
        steps = packing.steps_of(self.explanations)
        for explanation in self.explanations:
            data = packing.as_script(packing.sentence(explanation, steps))
            yield f'<script type="application/json" class="sentence">{data}</script>'

    def _repr_html_(self) -> str:
        """Return the page in a frame, for notebooks."""
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{html.escape(self.html)}" '
            'style="width: 100%; height: 900px; border: 1px solid #dddbe3; border-radius: 8px"></iframe>'
        )


def bokeh_source() -> str:
    """Return the source code of BokehJS.

    Raises:
        ImportError: Bokeh is not installed; the message says how to install it.
    """
    try:
        from bokeh.resources import Resources
    except ImportError as error:
        raise ImportError(
            "The page is drawn by Bokeh, which is not installed: pip install 'captum-attattr[report]'."
        ) from error
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw)


def _text(name: str) -> str:
    return files("captum_attattr.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the hash by which a Content-Security-Policy allows a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
