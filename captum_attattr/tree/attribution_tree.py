"""The attribution tree: how information flows, layer by layer, to the token that the classifier reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_attattr.arguments import check_choice, one_each
from captum_attattr.pictures.fonts import families_for, use_fonts
from captum_attattr.pictures.signed_map import new_figure, shown
from captum_attattr.text.explanation import Explanation
from captum_attattr.tree.arguments import (
    Root,
    fraction,
    root_of,
    sentences_of,
    sum_over_heads,
)
from captum_attattr.tree.by_layer import grow_by_layer
from captum_attattr.tree.drawing import draw_tree
from captum_attattr.tree.growth import Edge, Grown, best_part, grow_by_attribution, total_of
from captum_attattr.tree.layout import Plan
from captum_attattr.tree.words import as_dot, as_graph, as_text

if TYPE_CHECKING:
    import networkx

Scale = Literal["total", "layer"]

_LAYERWISE = "layerwise attributions, which do not add up over layers"


class AttributionTree:
    r"""The strongest looks from token to token, by layer, as a tree with the token that the output reads on top.

    "Look" is short for a pair: a query looks at a key. The tree needs joint attributions, whose layers add up
    (``explain(..., path="joint")``), so that all are on one scale. With a(l, i, j), the attribution of token i looking
    at token j in layer l, summed over heads, the total is

    .. math:: t = \sum_j \Big| \sum_{l, i} a(l, i, j) \Big|,

    the sum of the magnitudes of the tokens' scores. It is :math:`|F(A) - F(A_0)|` if all scores have the same sign, and
    larger otherwise, so that it does not vanish where they cancel. (The sum of all magnitudes would grow with the
    numbers of layers and tokens, by small looks that cancel.)

    The root is the token that the output reads. The next edge is always the look of largest magnitude from a token in
    the tree at a token outside it, as long as its magnitude is at least ``tau`` of the total (2%). A token's own looks
    must be in layers below the one in which the tree reaches it, since only these can flow on through that look. Looks
    that lower the output are edges as well, with negative attributions: the tree of -F is the same with all signs
    reversed. Two edges are in the tree whatever their size, and usually they are the same: the root's strongest look in
    any layer, and its strongest look at the token with the largest attribution in its row, summed over layers. So the
    largest attribution in the root's row of the map of token pairs is always in the tree. Each token is in the tree
    once: further strong looks at it are in the map only. The joint path keeps all attention fixed: a look that only
    changes the attention of higher layers (in induction the look at the token before) has no attribution on it, but has
    one on the layerwise path.

    ``scale="layer"`` is the paper's tree, a heuristic for

    .. math:: \max \sum_l \sum_{(i, j) \in E_l} a(l, i, j) - \lambda \sum_l |E_l|, \qquad
        E_l \subset \{(i, j): a(l, i, j) > \tau\}

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021) with each layer divided by its largest attribution in
    rows other than [CLS]'s. So scores can be compared within a layer only: in a layer that adds hardly anything, an
    edge that adds hardly anything may have the score 1. The top node is the token, except [CLS], with the largest sum
    of attributions of its looks at other tokens, over all layers. From there downwards, layer by layer, every token
    outside the tree that some token in it looks at with a score above tau is added, by the strongest such look. Last,
    [CLS] is put above the top node, in the top layer, whatever the size of that look. The authors' script
    (``examples/attribution_tree.py`` in github.com/YRdddream/attattr) has no lambda, no edge from [CLS] and no top
    layer; it takes the first look at a new token, in the order of the text, and lets a token look at others in the
    layer in which it is added.

    Lambda is applied, on either scale, to the complete tree: of its parts that contain the top, the one with the
    largest objective is kept, which is the whole tree for lambda 0.

    Args:
        attributions: An :class:`Explanation`; or attributions of one text, (layer, head, query, key), the lowest layer
            first, or a list of (head, query, key).
        tokens: The tokens, for raw attributions; by default their positions.
        scale: What scores are fractions of: the "total", or the largest attribution of the "layer".
        tau: Threshold of the edge scores, by default 0.02 of the total, or 0.4 of the layer.
        top_tau: For ``scale="layer"``, the threshold in the top layer, by default 0. It matters only for
            ``root="none"``; otherwise the root's edge is the only one there.
        penalty: Lambda, the cost of an edge, in the unit of the scores.
        root: Position of the token that the classifier reads ([CLS]; the last token in decoders); "none" if it reads
            all of them: then the token with the largest sum of looks is the root (for ``scale="layer"`` the paper's
            top node). "auto" takes the only token with attributions in the top layer (a token that is not read has
            none there); else the first token, or the last one if the first looks at no other, as in decoders.
        layers: Numbers of the layers in the model, for raw attributions; by default 0, 1, 2, ...
        segments: For each token the sentence of a pair to which it belongs, None for neither. For an explanation of a
            pair the default is given by the texts.
        pieces: Of an explanation take the tokenizer's pieces, not words.

    Raises:
        ValueError: The arguments do not fit each other, a threshold is out of range, or attributions are not finite.

    Warns:
        UserWarning: A layerwise explanation is put on one scale, although its attributions do not add up over layers.
            The picture and the text say so as well.

    Example:
        >>> from captum_attattr import AttributionTree, explain
        >>> tree = AttributionTree(explain("The plot was interesting but the execution was poor."))
        >>> tree
        AttributionTree([CLS] -> poor, 3 edges, 6 layers)
        >>> [(tree.tokens[edge.key], edge.layer, f"{edge.attribution:+.2f}") for edge in tree.edges]
        [('poor', 5, '+3.42'), ('execution', 5, '+0.56'), ('was', 5, '+0.22')]
    """

    def __init__(
        self,
        attributions: Explanation | Tensor | Sequence[Tensor],
        tokens: Sequence[str] | None = None,
        *,
        scale: Scale = "total",
        tau: float | None = None,
        top_tau: float | None = None,
        penalty: float = 0.0,
        root: Root = "auto",
        layers: Sequence[int] | None = None,
        segments: Sequence[int | None] | None = None,
        pieces: bool = False,
    ) -> None:
        names, self._what, self._notes = None, "output", list[str]()
        if isinstance(attributions, Explanation):
            if tokens is not None or layers is not None:
                raise ValueError("An explanation has tokens and layers of its own: leave tokens and layers out.")
            attributions = attributions if pieces else attributions.words
            segments = sentences_of(attributions) if segments is None else segments
            self._what, self._notes = attributions.explained, _notes(attributions, scale)
            tokens, names, layers = attributions.tokens, attributions.token_names, attributions.layers
            attributions = attributions.attributions
        summed = sum_over_heads(attributions)
        depth, count = summed.shape[:2]
        tokens = [str(place) for place in range(count)] if tokens is None else tokens
        self.tokens = one_each("tokens", tokens, "rows of attributions", count)
        self.names = self.tokens if names is None else names
        """Unique names of the tokens."""
        self.layers = one_each("layers", range(depth) if layers is None else layers, "layers of attributions", depth)
        if any(below >= layer for below, layer in pairwise(self.layers)):
            raise ValueError(f"layers must go from the lowest to the top one, got {self.layers}.")
        self.segments = None if segments is None else one_each("segments", segments, "tokens", count)
        """The sentence of a pair to which each token belongs; None if it is not known."""
        self.root = root_of(root, summed)
        """Position of the token that the classifier reads, None if there is no such token."""
        self.scale: Scale = scale
        """What scores are fractions of."""
        self.total = total_of(summed)
        """The sum of the magnitudes of the tokens' scores, in the unit of the output."""
        self.penalty = fraction("penalty", penalty)
        grown, self.tau = _grown(summed, self.root, scale, tau, top_tau)
        self.top = grown.top
        """Position of the token that the root's first edge leads to; without a root, of the top itself."""
        worth = grown.scores.abs() if scale == "total" else grown.scores
        self.edges = [
            Edge(self.layers[at[0]], at[1], at[2], float(grown.scores[at]), float(summed[at]))
            for at in best_part(grown.links, worth, grown.firm, self.penalty)
        ]
        """Edges, the strongest first, or from the top layer down: a token is a key before it is a query."""

    @property
    def nodes(self) -> list[int]:
        """Positions of the tokens in the tree, from the top down."""
        return [self.top if self.root is None else self.root, *(edge.key for edge in self.edges)]

    @property
    def objective(self) -> float:
        """The sum of the edges' scores (for ``scale="total"`` of their magnitudes), minus the penalty for each edge."""
        scores = [abs(edge.score) if self.scale == "total" else edge.score for edge in self.edges]
        return sum(score - self.penalty for score in scores)

    @property
    def crossing_edges(self) -> list[Edge]:
        """The edges from a token of one sentence to a token of another.

        Raises:
            ValueError: It is not known which token belongs to which sentence.
        """
        if self.segments is None:
            raise ValueError(
                "It is not known which token belongs to which sentence: give segments, a number (None for special "
                "tokens) for each token."
            )
        return [edge for edge in self.edges if self._crosses(edge)]

    def to_networkx(self) -> networkx.DiGraph:
        """Return the tree as a directed graph from queries to keys.

        Nodes are positions, with ``token``; edges have ``layer``, ``score`` and ``share``, the attribution.

        Example:
            >>> from captum_attattr import AttributionTree, explain
            >>> import networkx
            >>> tree = AttributionTree(explain("A warm, funny film.", path="joint"))
            >>> networkx.is_arborescence(tree.to_networkx())
            True
        """
        return as_graph(self.tokens, self.nodes, self.edges)

    def to_text(self) -> str:
        """Return the tree as indented text: each token with the layer, attribution and score of its edge.

        Example:
            >>> import torch
            >>> from captum_attattr import AttributionTree
            >>> attributions = torch.zeros(2, 1, 3, 3)
            >>> attributions[1, 0, 0, 2] = 0.5
            >>> attributions[0, 0, 2, 1] = -0.25
            >>> print(AttributionTree(attributions, ["[CLS]", "not", "bad"]).to_text())
            ╙── [CLS]
                └── bad      layer 1  +0.50   67% of the total
                    └── not  layer 0  -0.25   33% of the total
        """
        crossing = {edge for edge in self.edges if self._crosses(edge)}
        whole = "the total" if self.scale == "total" else "the layer's largest"
        return "\n".join([as_text(self.names, self.nodes[0], self.edges, crossing, whole), *self._notes])

    def to_dot(self) -> str:
        """Return the tree in Graphviz's language, for ``dot -Tsvg``, with the keys of one layer at one height.

        The width of an edge is proportional to its attribution; purple edges raise the output, orange ones lower it.
        They are labelled with layer and attribution, and dashed if they cross sentences.
        """
        crossing = {edge for edge in self.edges if self._crosses(edge)}
        return as_dot(self.tokens, self.layers, self.nodes[0], self.edges, crossing)

    def plot(
        self, *, title: str | None = None, plt_fig_axis: tuple[Figure, Axes] | None = None, use_pyplot: bool = False
    ) -> tuple[Figure, Axes]:
        """Draw the tree over the sentence: heights are layers, widths are attributions, and colours are signs.

        Each token of the tree is drawn in its own column, at the height of the layer of its edge, with the attribution
        of the edge; a line leads down to the layers of its own looks. Neighbouring layers without an edge are drawn as
        one band. The text is below the tree, with tokens outside the tree in grey; of more than 60 tokens only those in
        the tree are drawn, and the picture says so. Purple edges raise the output, orange ones lower it; those that
        cross the two sentences of a pair are dashed.

        Args:
            title: A title in place of the default one.
            plt_fig_axis: Figure and axes to draw into, as for Captum's visualizers; by default new ones, whose size
                fits the tree.
            use_pyplot: Make the figure with pyplot and show it (Captum's default). Without it no display is needed.

        Returns:
            The figure and the axes.
        """
        figure, axes = new_figure((1, 1), use_pyplot) if plt_fig_axis is None else plt_fig_axis
        crossing = [self._crosses(edge) for edge in self.edges]
        text = self.tokens, self.segments, self.layers
        plan = Plan(*text, self.nodes[0], self.edges, crossing, self._what, self._what_widths_are())
        draw_tree(plan, axes, title, resize=plt_fig_axis is None)
        use_fonts(families_for(self.tokens), axes)
        return shown(figure, use_pyplot), axes

    def __repr__(self) -> str:
        """Short: root, top node and size."""
        above = "" if self.root is None else f"{self.tokens[self.root]} -> "
        return f"AttributionTree({above}{self.tokens[self.top]}, {len(self.edges)} edges, {len(self.layers)} layers)"

    def _what_widths_are(self) -> list[str]:
        if self.scale == "layer":
            return ["widths are attributions divided by the largest one of their layer: compare within a layer only"]
        least = f"{100 * self.tau:.3g}% of the total, {self.total:.3g}"
        return [f"widths are attributions; looks of less than {least}, are left out", *self._notes]

    def _crosses(self, edge: Edge) -> bool:
        ends = {None} if self.segments is None else {self.segments[edge.query], self.segments[edge.key]}
        return None not in ends and len(ends) == 2


def _grown(
    attributions: Tensor, root: int | None, scale: Scale, tau: float | None, top_tau: float | None
) -> tuple[Grown, float]:
    """Grow the tree on a scale: returns it and its threshold."""
    check_choice("scale", scale, ("total", "layer"))
    if scale == "total":
        if top_tau is not None:
            raise ValueError(
                "top_tau is for scale='layer'. Leave it out with 'total': one threshold, tau, holds in all layers."
            )
        least = fraction("tau", 0.02 if tau is None else tau)
        return grow_by_attribution(attributions, root, least), least
    least = fraction("tau", 0.4 if tau is None else tau)
    return grow_by_layer(attributions, root, least, fraction("top_tau", 0.0 if top_tau is None else top_tau)), least


def _notes(explanation: Explanation, scale: Scale) -> list[str]:
    if scale != "total" or explanation.layers_add_up:
        return []
    warnings.warn(
        f"The tree puts all layers on one scale, but these are {_LAYERWISE}. explain(..., path='joint') gives "
        "attributions that add up; scale='layer' divides each layer by its own largest attribution.",
        UserWarning,
        stacklevel=3,
    )
    return [_LAYERWISE]
