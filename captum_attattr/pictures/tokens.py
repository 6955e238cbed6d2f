"""Pictures of tokens and token pairs, by Captum's visualizers where these are suitable, else by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
from captum.attr import LLMAttributionResult, visualization
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from captum_attattr.aggregation import Normalize, TokenReduction, pair_scores
from captum_attattr.arguments import all_or_each, check_count
from captum_attattr.pictures.fonts import families_for, use_fonts
from captum_attattr.pictures.signed_map import (
    letters,
    name_rows_and_columns,
    new_figure,
    shown,
    side_of,
    signed_map,
    strongest,
    widest_name,
)
from captum_attattr.text.explanation import Explanation

Label = str | int | None
_SIZES = {"max": "largest magnitude", "l1": "sum of magnitudes", "l2": "norm"}


def token_records(
    explanations: Explanation | Iterable[Explanation],
    reduction: TokenReduction = "received",
    *,
    special: bool = True,
    true_labels: Label | Sequence[Label] = None,
    pieces: bool = False,
) -> list[visualization.VisualizationDataRecord]:
    """Return token scores as Captum's records, for one table with those of ``LayerIntegratedGradients`` and others.

    The scores are scaled to [-1, 1] by the largest magnitude. "Attribution Score" is their sum before scaling, and
    ``convergence_score`` the largest delta of a layer; both are in the unit of the output. (Captum's table has no
    column for ``convergence_score``.) Of layerwise attributions, which do not add up over layers, the sum means
    nothing: the label says that they are a ranking. Tokens and labels are escaped, since ``visualize_text`` writes them
    into HTML as they are.

    Args:
        explanations: One explanation or several, a record each.
        reduction: "received", "sent" or "first", see :func:`captum_attattr.token_scores`.
        special: Whether to show tokens that the tokenizer added. Without them only the others are scaled.
        true_labels: Name or number of the true label, one for each explanation; None if it is not known.
        pieces: Show the tokenizer's pieces, not words.

    Raises:
        ValueError: A reduction or label is unknown, or the number of labels is not that of the explanations.
        TypeError: An argument is no explanation.

    Example:
        >>> from captum_attattr import explain, token_records
        >>> [record] = token_records(explain("A warm, funny film."), true_labels="positive")
        >>> record.raw_input_ids[:3], record.pred_class, float(record.word_attributions.abs().max())
        (['[CLS]', 'A', 'warm'], 'positive', 1.0)
    """
    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    for explanation in several:
        if not isinstance(explanation, Explanation):
            raise TypeError(f"Token scores need explanations, as explain() returns them; got {_kind(explanation)}.")
    truths = all_or_each("true labels", true_labels, "explanations", len(several))
    shown_as = [explanation if pieces else explanation.words for explanation in several]
    return [_record(e, reduction, special, truth) for e, truth in zip(shown_as, truths, strict=True)]


def visualize_tokens(
    explanations: Explanation | Iterable[Explanation],
    reduction: TokenReduction = "received",
    *,
    special: bool = True,
    true_labels: Label | Sequence[Label] = None,
    pieces: bool = False,
    beside: Iterable[visualization.VisualizationDataRecord] = (),
    legend: bool = True,
) -> Any:
    """Show token scores as Captum's coloured text, a row an explanation, with ``captum.attr``'s ``visualize_text``.

    Args:
        explanations, reduction, special, true_labels, pieces: See :func:`token_records`.
        beside: Records of other methods, shown below in the same table.
        legend: Whether to show Captum's legend.

    Returns:
        The table, an ``IPython.display.HTML``, which is also displayed.

    Raises:
        ImportError: IPython is not installed; :func:`token_records` works without it.
        ValueError, TypeError: See :func:`token_records`.
    """
    given = token_records(explanations, reduction, special=special, true_labels=true_labels, pieces=pieces)
    records = [*given, *beside]
    if find_spec("IPython") is None:
        raise ImportError(
            "Captum shows text with IPython, which is not installed: pip install ipython. token_records(...) returns "
            "the same records without it."
        )
    return visualization.visualize_text(records, legend=legend)


def token_pair_result(
    explanation: Explanation,
    layer: int | None = None,
    head: int | None = None,
    *,
    normalize: Normalize = None,
    pieces: bool = False,
) -> LLMAttributionResult:
    """Return token pairs as Captum's ``LLMAttributionResult``: rows (outputs) are queries, columns (inputs) are keys.

    Its ``plot_token_attr()`` draws a map with a number in every cell, which is suitable for up to a dozen tokens.

    Args:
        explanation, layer, head, normalize, pieces: See :func:`visualize_token_pairs`.

    Example:
        >>> from captum_attattr import explain, token_pair_result
        >>> result = token_pair_result(explain("A warm, funny film."), layer=5)
        >>> result.token_attr.shape, result.input_tokens[2]
        (torch.Size([8, 8]), 'warm')
    """
    explanation = _shown(explanation, pieces)
    scores = _pairs(explanation, layer, head, normalize)
    names = explanation.token_names
    return LLMAttributionResult(input_tokens=names, output_tokens=names, seq_attr=scores.sum(0), token_attr=scores)


def visualize_token_pairs(
    explanation: Explanation,
    layer: int | None = None,
    head: int | None = None,
    *,
    normalize: Normalize = None,
    pieces: bool = False,
    most: int = 60,
    title: str | None = None,
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    use_pyplot: bool = False,
) -> tuple[Figure, Axes]:
    """Draw the attributions of token pairs as a labelled map with signs, in the unit of the output.

    Purple raises the explained output, orange lowers it, white is zero. The map is drawn by matplotlib, as Captum's
    visualizers are less suitable: ``visualize_image_attr`` normalises the numbers, removes the tick labels and refuses
    a map of zeros; ``LLMAttributionResult.plot_token_attr`` writes a number into each cell, takes 1.3 inches a column
    (166 for 128 tokens), always uses pyplot, takes no axes, and is red and green. For short texts
    :func:`token_pair_result` gives the same map to it.

    Args:
        explanation: The explanation.
        layer: Number of a layer in the model; None sums over all explained layers.
        head: Number of a head in that layer; None sums over all heads.
        normalize: Divide by the largest magnitude ("max"), the sum of magnitudes ("l1") or the norm ("l2").
        pieces: Show the tokenizer's pieces, not words.
        most: Maximum number of rows and columns: of longer texts the strongest are drawn, and the title says so.
        title: A title in place of the default one.
        plt_fig_axis: Figure and axes to draw into, as for Captum's visualizers; by default new ones, whose size fits
            the number of tokens.
        use_pyplot: Make the figure with pyplot and show it (Captum's default). Without it no display is needed.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: There is no such layer or head, a head is given without its layer, or ``most`` is below 1.

    Example:
        >>> from captum_attattr import explain, visualize_token_pairs
        >>> figure, axes = visualize_token_pairs(explain("A warm, funny film."), layer=5, head=0)
        >>> axes.get_title()
        "Attribution of each token pair for the log-odds of 'positive', layer 5, head 0"
    """
    check_count("most", most)
    explanation = _shown(explanation, pieces)
    scores = _pairs(explanation, layer, head, normalize).numpy()
    magnitude = np.abs(scores)
    rows, columns = strongest(magnitude.sum(1), most), strongest(magnitude.sum(0), most)
    part = scores[np.ix_(rows, columns)]
    side = side_of(len(rows))
    figure, axes = new_figure((side, side), use_pyplot) if plt_fig_axis is None else plt_fig_axis
    inches = side if plt_fig_axis is None else float(axes.get_window_extent().width) / figure.dpi
    bar = signed_map(part, axes, inches)
    unit = f"attribution, {explanation.output_name}" if normalize is None else f"attribution / {_SIZES[normalize]}"
    bar.set_label(unit, fontsize=8)
    tokens = np.array(explanation.tokens, dtype=object)
    name_rows_and_columns(axes, tokens[rows], tokens[columns], letters(inches, len(rows)))
    title = _title(explanation, layer, head, scores, part) if title is None else title
    above = axes.set_title(title, fontsize=10, x=0, ha="left", parse_math=False)
    use_fonts(families_for([*explanation.tokens, title]), axes)
    if plt_fig_axis is None:
        _fit(figure, axes, above, side)
    return shown(figure, use_pyplot), axes


def _record(
    explanation: Explanation, reduction: TokenReduction, special: bool, truth: Label
) -> visualization.VisualizationDataRecord:
    e = explanation
    kept = [place for place, added in enumerate(e.special) if special or not added]
    scores = e.token_scores(reduction)[kept]
    reach = float(scores.abs().max()) if kept else 0.0
    return visualization.VisualizationDataRecord(
        word_attributions=scores / reach if reach > 0 else scores,
        pred_prob=float(e.probabilities.max()),
        pred_class=escape(e.prediction),
        true_class=_label(e, truth),
        attr_class=escape(e.label) + " (ranking, not shares)" * e.sums_only_rank,
        attr_score=float(scores.sum()),
        raw_input_ids=[escape(e.tokens[place]) for place in kept],
        convergence_score=float(e.delta[e.delta.abs().argmax()]),
    )


def _label(explanation: Explanation, truth: Label) -> str:
    """Return the escaped name of a label given by name or number."""
    if truth is None:
        return ""
    labels = explanation.labels
    if isinstance(truth, int) and not isinstance(truth, bool) and 0 <= truth < len(labels):
        return escape(labels[truth])
    if truth in labels:
        return escape(str(truth))
    known = ", ".join(f"{number} ({label})" for number, label in enumerate(labels))
    raise ValueError(f"True label {truth!r} is not a label of the model. Its labels: {known}.")


def _shown(explanation: Explanation, pieces: bool) -> Explanation:
    """Return the explanation by words, or as it is.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"Token pairs need an explanation, as explain() returns it; got {_kind(explanation)}.")
    return explanation if pieces else explanation.words


def _pairs(explanation: Explanation, layer: int | None, head: int | None, normalize: Normalize) -> Tensor:
    """Return attributions (query, key), summed over layers and heads unless these are chosen."""
    if layer is None and head is None:
        return explanation.pair_scores(normalize=normalize)
    attributions = explanation.attributions
    if layer is not None:
        if layer not in explanation.layers:
            raise ValueError(f"layer {layer!r} is not among the explained layers {explanation.layers}.")
        attributions = attributions[[explanation.layers.index(layer)]]
    if head is not None:
        if layer is None:
            raise ValueError(
                f"head {head!r} of which layer? Give layer, too: heads of different layers have nothing in common."
            )
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < attributions.shape[1]:
            raise ValueError(
                f"head {head!r} does not exist: layer {layer} has the heads 0 to {attributions.shape[1] - 1}."
            )
        attributions = attributions[:, [head]]
    return pair_scores(attributions, normalize)


def _title(explanation: Explanation, layer: int | None, head: int | None, scores: np.ndarray, part: np.ndarray) -> str:
    where = "summed over layers and heads" if layer is None else f"layer {layer}, "
    if layer is not None:
        where += "summed over heads" if head is None else f"head {head}"
    elif explanation.sums_only_rank:
        where += " (a ranking, not shares)"
    title = f"Attribution of each token pair for the {explanation.explained}, {where}"
    if part.size == scores.size:
        return title
    kept = np.abs(part).sum() / (np.abs(scores).sum() or 1)
    of = f"The {len(part)} strongest rows and columns of {len(scores)}"
    return f"{title}\n{of}, which hold {kept:.0%} of the magnitude"


def _fit(figure: Figure, axes: Axes, title: Text, side: float) -> None:
    """Set the size of the figure to that of the map with its labels, title and colour bar."""
    name = 0.5 + widest_name(axes)
    wide, high = (size / figure.dpi for size in title.get_window_extent().size)
    width, height = name + max(side + 0.9, 1.05 * wide), side + name + high + 0.3
    figure.set_size_inches(width, height)
    axes.set_position((name / width, name / height, side / width, side / height))


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
