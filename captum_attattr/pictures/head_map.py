"""The layer-by-head map of importance, drawn by Captum's visualizer."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import visualization
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from captum_attattr.colours import COLOURS
from captum_attattr.heads.importance import Importance
from captum_attattr.pictures.signed_map import number_heads, shown

_POSITIVE, _MISSING = "Purples", "#d9d9d9"
_UNITS = {"attention": "probability", "random": "random number", "ablation_accuracy": "accuracy", "ablation": "loss"}


def visualize_head_importance(
    importance: Importance | Tensor,
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    *,
    cmap: str | None = None,
    show_colorbar: bool = True,
    title: str | None = None,
    fig_size: tuple[float, float] | None = None,
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """Draw the importance of heads as an image: a row a layer, a column a head, colours in the measure's unit.

    It draws with ``captum.attr.visualization.visualize_image_attr``, whose arguments it takes and whose figure and axes
    it returns. Captum scales an image to [-1, 1] and removes the tick labels; here the colour bar has the original
    numbers, and the axes have those of layers and heads.

    Args:
        importance: The result of :class:`HeadImportance`, or any scores (layers, heads).
        plt_fig_axis: Figure and axes to draw into; by default new ones.
        cmap: Colour map. By default white is zero, purple positive and orange negative. Pruned heads are grey.
        show_colorbar: Whether to draw the colour bar.
        title: By default it names the measure and the number of examples.
        fig_size: Size in inches; by default it fits the number of layers and heads.
        use_pyplot: As in Captum: make the figure with pyplot and show it; with False it is only returned.

    Returns:
        Figure and axes.

    Raises:
        TypeError, ValueError: ``importance`` is neither an importance nor a tensor, or has another number of axes.

    Example:
        >>> import torch
        >>> from captum_attattr import visualize_head_importance
        >>> figure, axes = visualize_head_importance(torch.rand(6, 12), use_pyplot=False)
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('head', 'layer')
    """
    scores = _scores(importance)
    present = np.nan_to_num(scores)
    reach = float(np.abs(present).max(initial=0)) or 1.0
    signed = bool((present < 0).any())
    if plt_fig_axis is None:
        plt_fig_axis = _new(fig_size or _size(scores), use_pyplot)
    # Captum refuses a map of zeros and scales the numbers: the scores themselves are set afterwards.
    scaled = present / reach if present.any() else np.ones_like(present)
    figure, axes = visualization.visualize_image_attr(
        scaled, sign="all" if signed else "positive", plt_fig_axis=plt_fig_axis, use_pyplot=False,
        cmap=cmap or (COLOURS if signed else _POSITIVE), title=_title(importance) if title is None else title,
    )  # fmt: skip
    image = axes.images[-1]
    image.set_data(np.ma.masked_invalid(scores))
    image.set_clim(-reach if signed else 0, reach)
    image.set_cmap(image.get_cmap().with_extremes(bad=_MISSING))
    # Captum removed the labels.
    number_heads(axes, range(len(scores)), scores.shape[1])
    axes.xaxis.set_ticks_position("bottom")
    axes.yaxis.set_ticks_position("left")
    if show_colorbar:
        figure.colorbar(image, ax=axes, label=_unit(importance), fraction=0.05, pad=0.03)
    return shown(figure, use_pyplot), axes


def _new(size: tuple[float, float], use_pyplot: bool) -> tuple[Figure, Axes]:
    if use_pyplot:
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        return figure, axes
    figure = FigureCanvasAgg(Figure(figsize=size, dpi=130, layout="constrained")).figure
    return figure, figure.subplots()


def _scores(importance: Any) -> np.ndarray:
    scores = importance.scores if isinstance(importance, Importance) else importance
    if not isinstance(scores, Tensor):
        raise TypeError(f"importance must be an Importance or a tensor (layers, heads), got {type(scores).__name__}.")
    if scores.dim() != 2 or scores.numel() == 0:
        raise ValueError(f"Scores of heads must be (layers, heads), got the shape {tuple(scores.shape)}.")
    return scores.detach().to("cpu", torch.float64).numpy()


def _size(scores: np.ndarray) -> tuple[float, float]:
    layers, heads = scores.shape
    cell = min(0.42, 7.0 / max(heads, layers))
    return max(5.0, cell * heads + 1.8), max(2.2, cell * layers + 1.1)


def _title(importance: Importance | Tensor) -> str:
    if not isinstance(importance, Importance):
        return "Importance of each head"
    return f"Importance of each head by {importance.measure}, {importance.examples} examples"


def _unit(importance: Importance | Tensor) -> str:
    if not isinstance(importance, Importance):
        return ""
    kind = str(importance.settings.get("output", ""))
    return _UNITS.get(importance.measure, "output" if kind == "given" else kind)
