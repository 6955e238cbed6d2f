"""The page's pictures as Bokeh figures without data: map of heads, two maps of token pairs, tree.

The page's script finds their data sources and annotations by name and fills them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.document import Document
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    BoxZoomTool,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    ResetTool,
    SaveTool,
)
from bokeh.models.annotations import BoxAnnotation, ColorBar, Span
from bokeh.plotting import figure

from captum_attattr.colours import AGAINST, FOR, attention_palette, palette

_INK, _SOFT, _LINE, _ACCENT = "#1c1b22", "#5c5a66", "#dddbe3", "#0b6e69"
_FONT = "system-ui, Segoe UI, Roboto, Noto Sans, DejaVu Sans, sans-serif"
_SHADES = 255


@cache
def document() -> dict[str, Any]:
    """Return the figures as a Bokeh document in JSON, with the arguments of ``Bokeh.embed.embed_items``."""
    ranges = _range(), _range()
    pictures = Document(title="")
    attributions, attention = palette(_SHADES), attention_palette(_SHADES)
    for one in (_heads(), _pairs("shares", attributions, ranges), _pairs("attention", attention, ranges), _tree()):
        pictures.add_root(one)
    roots = {root.id: root.name for root in pictures.roots}
    items = [{"docid": "pictures", "roots": roots, "root_ids": list(roots)}]
    return {"documents": {"pictures": pictures.to_json(deferred=False)}, "items": items}


def _range() -> Range1d:
    return Range1d(start=0, end=1)


def _figure(name: str, **settings: Any) -> Any:
    plot = figure(name=name, tools="", min_border=0, outline_line_color=None, border_fill_color=None, **settings)
    plot.grid.visible = False
    for axis in plot.axis:
        axis.update(
            ticker=FixedTicker(ticks=[]), axis_line_color=None, major_tick_line_color=None, minor_tick_line_color=None,
            major_label_text_color=_INK, major_label_text_font=_FONT, major_label_standoff=5,
            axis_label_text_color=_SOFT, axis_label_text_font=_FONT, axis_label_text_font_style="normal",
        )  # fmt: skip
    plot.toolbar.logo = None
    return plot


def _frame(name: str, width: float) -> BoxAnnotation:
    return BoxAnnotation(
        name=name, fill_alpha=0, line_color=_ACCENT, line_width=width, line_alpha=1, level="overlay", visible=False
    )


def _heads() -> Any:
    names = {"x_axis_label": "head", "y_axis_label": "layer"}
    plot = _figure("heads", toolbar_location=None, x_range=_range(), y_range=_range(), **names)
    plot.background_fill_color = "#f1eff4"
    source = ColumnDataSource({"head": [], "row": [], "colour": [], "says": []}, name="heads source")
    cells = plot.rect("head", "row", 0.94, 0.94, source=source, line_color=None, fill_color="colour")
    # Selection does not change the look of cells: the frame shows the chosen one.
    cells.nonselection_glyph = None
    plot.add_tools(HoverTool(tooltips="@says", renderers=[cells], attachment="above"))
    plot.add_layout(_frame("chosen", 3))
    return plot


def _pairs(name: str, colours: list[str], ranges: tuple[Range1d, Range1d]) -> Any:
    plot = _figure(name, toolbar_location="right", x_range=ranges[0], y_range=ranges[1])
    plot.outline_line_color = _LINE
    mapper = LinearColorMapper(palette=colours, low=0, high=1, name=f"{name} colours")
    source = ColumnDataSource(
        {"image": [np.zeros((1, 1))], "from": [0], "wide": [0], "high": [0]}, name=f"{name} source"
    )
    plot.image("image", x="from", y="from", dw="wide", dh="high", source=source, color_mapper=mapper)
    bar = ColorBar(
        color_mapper=mapper, orientation="horizontal", height=8, padding=0, margin=0, bar_line_color=_LINE,
        background_fill_color=None,
        major_label_text_font=_FONT, major_label_text_font_size="11px", major_tick_line_color=None, label_standoff=3,
        ticker=BasicTicker(desired_num_ticks=5), formatter=BasicTickFormatter(power_limit_low=-5),
    )  # fmt: skip
    plot.add_layout(bar, "above")
    for one in (_frame(f"{name} row", 1.5), _frame(f"{name} column", 1.5), _frame(f"{name} pair", 3)):
        plot.add_layout(one)
    for dimension in ("width", "height"):
        look: dict[str, Any] = {"line_color": _SOFT, "line_dash": "dotted", "visible": False}
        plot.add_layout(Span(dimension=dimension, name=f"{name} {dimension}", **look))
    plot.xaxis.major_label_orientation = math.pi / 2
    zoom = BoxZoomTool()
    plot.add_tools(zoom, ResetTool(), SaveTool())
    plot.toolbar.active_drag = zoom
    plot.toolbar.autohide = True
    return plot


def _tree() -> Any:
    plot = _figure("tree", toolbar_location="right", x_range=_range(), y_range=_range())
    plot.ygrid.visible, plot.ygrid.grid_line_color = True, "#efedf3"
    curve = ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1")
    of_node = ("x", "y", "foot", "stem", "token", "says", "raises", "lowers")
    edges = ColumnDataSource({column: [] for column in (*curve, "width", "colour", "dash")}, name="edges source")
    nodes = ColumnDataSource({column: [] for column in of_node}, name="nodes source")
    plot.segment("x", "foot", "x", "y", source=nodes, line_color="#d5d2dc", line_dash="dotted")
    plot.segment("x", "stem", "x", "y", source=nodes, line_color="#b9b5c2", line_width=1.5)
    look = {"line_width": "width", "line_color": "colour", "line_dash": "dash", "line_alpha": 0.85}
    plot.bezier(*curve, source=edges, **look)
    marks = plot.scatter("x", "y", source=nodes, size=12, fill_color="white", line_color=_INK, line_width=2)
    letters = {"text_font": value(_FONT), "text_font_size": "11px", "text_align": "center", "text_baseline": "top"}
    for number, colour in (("raises", FOR), ("lowers", AGAINST)):  # a colour column fails when rows are removed
        plot.text("x", "y", number, source=nodes, text_color=colour, y_offset=9, **letters)
    plot.add_tools(HoverTool(tooltips="@says", renderers=[marks]), SaveTool())
    plot.xaxis.major_label_orientation = math.pi / 2
    plot.toolbar.autohide = True
    return plot
