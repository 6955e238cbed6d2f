"""The attribution tree: how information flows, layer by layer, to what the classifier reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_attattr.pictures.signed_map import new_figure, shown
from captum_attattr.text.explanation import Explanation
from captum_attattr.tree.arguments import (
    Root,
    explained_name,
    fraction,
    one_each,
    root_of,
    sentences_of,
    sum_over_heads,
)
from captum_attattr.tree.by_layer import grow_by_layer
from captum_attattr.tree.drawing import draw_tree
from captum_attattr.tree.growth import Edge, Grown, best_part, grow_by_attribution, total_of
from captum_attattr.tree.layout import Plan
from captum_attattr.tree.words import as_dot, as_text

Scale = Literal["total", "layer"]

_LAYERWISE = "layerwise shares: those of different layers are shares of different differences"


class AttributionTree:
    r"""Which token takes from which, in which layer, as one tree with the token that the output reads on top.

    It is made of joint attributions, whose layers add up (``explain(..., path="joint")``), all on one scale. With
    a(l, i, j), the share of token i looking at token j in layer l, summed over heads, the total is

    .. math:: t = \sum_j \Big| \sum_{l, i} a(l, i, j) \Big|,

    the sum of the magnitudes of the tokens' scores: :math:`|F(A) - F(A_0)|` where all tokens speak for the same side,
    more where they contradict each other, so that it does not vanish where they are even. (The sum of all magnitudes
    would grow with the numbers of layers and tokens, by small looks that cancel.)

    The root is the token that the output reads. Of all looks from a token of the tree at one outside of it, the one
    with the largest magnitude is the next edge, and so on, as long as there is one of at least ``tau``, 2% of the
    total. A token looks at others in layers below the one in which it is looked at: what was taken from it there is
    what it was below that layer. What speaks against the output is an edge as well, with a negative share: the tree of
    -F is the same with all signs turned. Two edges are there whatever they weigh, and nearly always are one: the root's
    strongest look in any layer, and its look at the token of which it takes most over all layers, in the layer where it
    takes most. So the largest share of the root's row in the map of token pairs is always in the tree. A token hangs
    in one place only: strong looks at tokens that are there already are in the map, not in the tree. And the joint path
    keeps all attention where it was: a look that only moves the attention of layers above it (in induction the one at
    the token before) has no share on it, but has one on the layerwise path.

    ``scale="layer"`` is the paper's tree, a heuristic for

    .. math:: \max \sum_l \sum_{(i, j) \in E_l} a(l, i, j) - \lambda \sum_l |E_l|, \qquad
        E_l \subset \{(i, j): a(l, i, j) > \tau\}

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021) with each layer divided by its largest share in rows
    other than [CLS]'s. So scores compare within a layer only: where a layer adds next to nothing, an edge of next to
    nothing has the score 1. The top node is the token, [CLS] apart, that gathers the most from other tokens, over all
    layers. From it downwards, layer by layer, every token that some token of the tree looks at with more than tau hangs
    itself there, by the strongest such look. Last, [CLS] is put above the top node, in the top layer, whatever that
    look weighs. The authors' script (``examples/attribution_tree.py`` in github.com/YRdddream/attattr) has no lambda,
    no edge from [CLS] and no top layer; there the first look at a new token counts, in the order of the text, and a
    token may look at others in the layer in which it is new.

    Lambda works, on either scale, on the tree when it has grown: of its parts that hold the top, the one with the
    largest objective is kept, which is all of it for lambda 0.

    Args:
        attributions: An :class:`Explanation`; or attributions of one text, (layer, head, query, key), the lowest layer
            first, or a list of (head, query, key).
        tokens: What the tokens are called, for raw attributions; by default their positions.
        scale: What scores are parts of: the "total", or the largest share of the "layer".
        tau: Threshold of the edge scores, by default 0.02 of the total, or 0.4 of the layer.
        top_tau: For ``scale="layer"``, the threshold in the top layer, by default 0. It matters for ``root="none"``
            only: else the root's edge is all there is.
        penalty: Lambda, the price of an edge, in the unit of the scores.
        root: Position of the token that the classifier reads ([CLS]; the last token in decoders); "none" where it
            reads all of them: then the token that looks most is the root (the paper's top node for ``scale="layer"``).
            "auto" takes the only token with shares in the top layer (what is not read can have none there); else the
            first token, or the last one where the first looks at no other, as in decoders.
        layers: Numbers of the layers in the model, for raw attributions; by default 0, 1, 2, ...
        segments: For each token, to which sentence of a pair it belongs, None for neither. For an explanation of a
            pair by default what the special tokens between the sentences tell.

    Raises:
        ValueError: The arguments do not fit each other, a threshold is out of range, or shares are not finite.

    Warns:
        UserWarning: A layerwise explanation is put on one scale. Its shares are in one unit, but those of different
            layers are shares of different differences. The picture and the text say so as well.

    Example:
        >>> from captum_attattr import AttributionTree, explain
        >>> tree = AttributionTree(explain("The plot was interesting but the execution was poor.", path="joint"))
        >>> tree
        AttributionTree([CLS] -> poor, 3 edges, 6 layers)
        >>> [(tree.tokens[edge.key], edge.layer, f"{edge.share:+.2f}") for edge in tree.edges]
        [('poor', 5, '+0.35'), ('execution', 5, '+0.05'), ('was', 5, '+0.02')]
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
    ) -> None:
        names, self._what, self._notes = None, "output", list[str]()
        if isinstance(attributions, Explanation):
            if tokens is not None or layers is not None:
                raise ValueError("An explanation has tokens and layers of its own: leave tokens and layers out.")
            segments = sentences_of(attributions) if segments is None else segments
            self._what, self._notes = explained_name(attributions), _notes(attributions, scale)
            tokens, names, layers = attributions.tokens, attributions.token_names, attributions.layers
            attributions = attributions.attributions
        summed = sum_over_heads(attributions)
        depth, count = summed.shape[:2]
        self.tokens = one_each("tokens", [str(n) for n in range(count)] if tokens is None else tokens, count)
        self.names = self.tokens if names is None else names
        """The tokens, told apart where the same one is there more than once."""
        self.layers = one_each("layers", range(depth) if layers is None else layers, depth)
        if any(below >= layer for below, layer in pairwise(self.layers)):
            raise ValueError(f"layers must go from the lowest to the top one, got {self.layers}.")
        self.segments = None if segments is None else one_each("segments", segments, count)
        """Which sentence of a pair each token belongs to; None if that is not known."""
        self.root = root_of(root, summed)
        """Position of the token that the classifier reads, None if there is no such token."""
        self.scale: Scale = scale
        """What scores are parts of."""
        self.total = total_of(summed)
        """The sum of the magnitudes of the tokens' scores, in the unit of the output."""
        self.penalty = fraction("penalty", penalty)
        grown, self.tau = _grown(summed, self.root, scale, tau, top_tau)
        self.top = grown.top
        """Position of the token below the root: what its first edge leads to. Without a root it is the top itself."""
        worth = grown.scores.abs() if scale == "total" else grown.scores
        self.edges = [
            Edge(self.layers[at[0]], at[1], at[2], float(grown.scores[at]), float(summed[at]))
            for at in best_part(grown.links, worth, grown.firm, self.penalty)
        ]
        """Strongest first, or from the top layer down: every token comes as a key before it comes as a query."""

    @property
    def nodes(self) -> list[int]:
        """Positions of the tokens in the tree, from the top down."""
        return [self.top if self.root is None else self.root, *(edge.key for edge in self.edges)]

    @property
    def objective(self) -> float:
        """The sum of the edges' scores, on one scale of their magnitudes, minus the penalty for each of them."""
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

    def to_networkx(self) -> nx.DiGraph:
        """As a directed graph from queries to keys.

        Nodes are positions, with ``token``; edges carry ``layer``, ``score`` and ``share``.

        Example:
            >>> from captum_attattr import AttributionTree, explain
            >>> import networkx
            >>> tree = AttributionTree(explain("A warm, funny film.", path="joint"))
            >>> networkx.is_arborescence(tree.to_networkx())
            True
        """
        graph = nx.DiGraph()
        graph.add_nodes_from((node, {"token": self.tokens[node]}) for node in self.nodes)
        graph.add_edges_from(
            (e.query, e.key, {"layer": e.layer, "score": e.score, "share": e.attribution}) for e in self.edges
        )
        return graph

    def to_text(self) -> str:
        """As an indented tree for the terminal: each token with the layer in which it is looked at, share and score.

        Example:
            >>> import torch
            >>> from captum_attattr import AttributionTree
            >>> shares = torch.zeros(2, 1, 3, 3)
            >>> shares[1, 0, 0, 2] = 0.5
            >>> shares[0, 0, 2, 1] = -0.25
            >>> print(AttributionTree(shares, ["[CLS]", "not", "bad"]).to_text())
            ╙── [CLS]
                └── bad      layer 1  +0.50   67% of the total
                    └── not  layer 0  -0.25   33% of the total
        """
        crossing = {edge for edge in self.edges if self._crosses(edge)}
        whole = "the total" if self.scale == "total" else "the layer's largest"
        return "\n".join([as_text(self.names, self.nodes[0], self.edges, crossing, whole), *self._notes])

    def to_dot(self) -> str:
        """In Graphviz's language, for ``dot -Tsvg``: what is looked at in one layer stands at one height.

        Edges are as wide as their shares are large, purple where they speak for the output and orange where against it,
        labelled with layer and share; those that cross sentences are dashed.
        """
        crossing = {edge for edge in self.edges if self._crosses(edge)}
        return as_dot(self.tokens, self.layers, self.nodes[0], self.edges, crossing)

    def plot(
        self, *, title: str | None = None, plt_fig_axis: tuple[Figure, Axes] | None = None, use_pyplot: bool = False
    ) -> tuple[Figure, Axes]:
        """Draw the tree over the sentence: heights are layers, wider edges have larger shares, and signs are colours.

        A token stands in its own column, at the height where it is looked at, with the share of that look; from there
        its line goes down to the layers in which it looks at others itself. Layers without an edge share one band. The
        text stands at the foot, what is not in the tree in grey; of more than 60 tokens only those in the tree are
        drawn, and the picture says so. Purple edges speak for the output, orange ones against it; those that cross the
        two sentences of a pair are dashed.

        Args:
            title: In place of the own title.
            plt_fig_axis: Figure and axes to draw into, as Captum's visualizers take them; by default new ones, whose
                size suits the tree.
            use_pyplot: Make the figure with pyplot and show it (Captum's default). Without it no display is needed.

        Returns:
            The figure and the axes.
        """
        figure, axes = new_figure((1, 1), use_pyplot) if plt_fig_axis is None else plt_fig_axis
        crossing = [self._crosses(edge) for edge in self.edges]
        text = self.tokens, self.segments, self.layers
        plan = Plan(*text, self.nodes[0], self.edges, crossing, self._what, self._what_widths_are())
        draw_tree(plan, axes, title, resize=plt_fig_axis is None)
        return shown(figure, use_pyplot), axes

    def __repr__(self) -> str:
        """Short: root, top node and size."""
        above = "" if self.root is None else f"{self.tokens[self.root]} -> "
        return f"AttributionTree({above}{self.tokens[self.top]}, {len(self.edges)} edges, {len(self.layers)} layers)"

    def _what_widths_are(self) -> list[str]:
        if self.scale == "layer":
            return ["widths are shares divided by the largest one of their layer: they compare within a layer only"]
        least = f"{100 * self.tau:.3g}% of the total, {self.total:.3g}"
        return [f"widths are shares; looks of less than {least}, are left out", *self._notes]

    def _crosses(self, edge: Edge) -> bool:
        ends = {None} if self.segments is None else {self.segments[edge.query], self.segments[edge.key]}
        return None not in ends and len(ends) == 2


def _grown(
    attributions: Tensor, root: int | None, scale: Scale, tau: float | None, top_tau: float | None
) -> tuple[Grown, float]:
    """The tree on that scale, and the threshold that it was grown with."""
    if scale == "total":
        if top_tau is not None:
            raise ValueError("top_tau is for scale='layer': on one scale one threshold, tau, holds in all layers.")
        least = fraction("tau", 0.02 if tau is None else tau)
        return grow_by_attribution(attributions, root, least), least
    if scale == "layer":
        least = fraction("tau", 0.4 if tau is None else tau)
        return grow_by_layer(attributions, root, least, fraction("top_tau", 0.0 if top_tau is None else top_tau)), least
    raise ValueError(f"Unknown scale {scale!r}. Choose 'total' or 'layer'.")


def _notes(explanation: Explanation, scale: Scale) -> list[str]:
    if scale != "total" or explanation.settings["path"] == "joint":
        return []
    warnings.warn(
        f"The tree puts all layers on one scale, and these are {_LAYERWISE}. explain(..., path='joint') gives shares "
        "that add up over layers; scale='layer' divides each layer by its own largest share.",
        UserWarning,
        stacklevel=3,
    )
    return [_LAYERWISE]
