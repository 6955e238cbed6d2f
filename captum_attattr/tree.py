"""The attribution tree: how information flows, layer by layer, to what the classifier reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import networkx as nx
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_attattr.aggregation import stack_layers
from captum_attattr.explanation import Explanation
from captum_attattr.signed_map import new_figure, shown
from captum_attattr.tree_drawing import Plan, draw_tree, edge_width
from captum_attattr.tree_growth import Edge, best_part, edge_scores, grow, only_reader, top_node

T = TypeVar("T")
Root = int | Literal["auto", "none"]


class AttributionTree:
    r"""Which token takes from which, in which layer, as one tree with the token that the classifier reads on top.

    With a(l, i, j), the share of token i looking at token j in layer l, summed over heads and divided by the largest
    share of the layer in rows other than [CLS]'s, the tree is a heuristic for

    .. math:: \max \sum_l \sum_{(i, j) \in E_l} a(l, i, j) - \lambda \sum_l |E_l|, \qquad
        E_l \subset \{(i, j): a(l, i, j) > \tau\}

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021). The top node is the token, [CLS] apart, that gathers
    the most from other tokens, over all layers. From it downwards, layer by layer, every token that some token of the
    tree looks at with more than tau hangs itself there. Last, [CLS] is put above the top node, in the top layer. An
    edge of layer l leads to what the key was below that layer, so what hangs on it hangs in lower layers.

    Where the paper leaves a choice: of several looks at a new token in one layer the strongest counts; a token that
    is new in a layer looks at others below that layer only; [CLS] is nowhere but on top, or there would be cycles,
    and its edge is there whatever its score. Lambda works on the tree when it has grown: of its parts that hold the
    top, the one with the largest objective is kept, which is all of it for lambda 0.

    How the authors' own script (``examples/attribution_tree.py`` in github.com/YRdddream/attattr) differs: there is no
    lambda, no edge from [CLS], and no top layer; the number of layers is fixed at 12; in the layer below the top one
    the top node alone looks; the top node is chosen by positive pairs only; the first look at a new token counts, in
    the order of the text, and not the strongest; a token may look at others in the layer in which it is new; [CLS]
    may hang in the tree as a key; heights in its drawing are not layers.

    Args:
        attributions: An :class:`Explanation`; or attributions of one text, (layer, head, query, key), the lowest layer
            first, or a list of (head, query, key).
        tokens: What the tokens are called, for raw attributions; by default their positions.
        tau: Threshold of the edge scores.
        top_tau: Threshold in the top layer. It matters for ``root="none"`` only: else the root's edge is all there is.
        penalty: Lambda, the price of an edge.
        root: Position of the token that the classifier reads ([CLS]; the last token in decoders); "none" where it
            reads all of them: then the top node is the root, and the tree grows from the top layer. "auto" takes the
            only token with shares in the top layer (what is not read can have none there), else the first token.
        layers: Numbers of the layers in the model, for raw attributions; by default 0, 1, 2, ...
        segments: For each token, to which sentence of a pair it belongs, None for neither. For an explanation of a
            pair by default what the special tokens between the sentences tell.

    Raises:
        ValueError: The arguments do not fit each other, a threshold is out of range, or shares are not finite.

    Example:
        >>> from captum_attattr import AttributionTree, explain
        >>> tree = AttributionTree(explain("The plot was interesting but the execution was poor."))
        >>> tree.tokens[tree.root], tree.edges[0].layer
        ('[CLS]', 5)
    """

    def __init__(
        self,
        attributions: Explanation | Tensor | Sequence[Tensor],
        tokens: Sequence[str] | None = None,
        *,
        tau: float = 0.4,
        top_tau: float = 0.0,
        penalty: float = 0.0,
        root: Root = "auto",
        layers: Sequence[int] | None = None,
        segments: Sequence[int | None] | None = None,
    ) -> None:
        names = None
        if isinstance(attributions, Explanation):
            if tokens is not None or layers is not None:
                raise ValueError("An explanation has tokens and layers of its own: leave tokens and layers out.")
            segments = _sentences(attributions) if segments is None else segments
            tokens, names, layers = attributions.tokens, attributions.token_names, attributions.layers
            attributions = attributions.attributions
        shares = _shares(attributions)
        depth, count = shares.shape[:2]
        self.tokens = _one_each("tokens", [str(n) for n in range(count)] if tokens is None else tokens, count)
        self.names = self.tokens if names is None else names
        """The tokens, told apart where the same one is there more than once."""
        self.layers = _one_each("layers", range(depth) if layers is None else layers, depth)
        if any(below >= layer for below, layer in pairwise(self.layers)):
            raise ValueError(f"layers must go from the lowest to the top one, got {self.layers}.")
        self.segments = None if segments is None else _one_each("segments", segments, count)
        """Which sentence of a pair each token belongs to; None if that is not known."""
        self.root = _root(root, shares)
        """Position of the token that the classifier reads, None if there is no such token."""
        self.top = top_node(shares, self.root)
        """Position of the token that gathers the most."""
        scores = edge_scores(shares, self.root)
        self.penalty = _fraction("penalty", penalty)
        links = grow(scores, self.top, self.root, _fraction("tau", tau), _fraction("top_tau", top_tau))
        self.edges = [
            Edge(self.layers[layer], query, key, float(scores[layer, query, key]), float(shares[layer, query, key]))
            for layer, query, key in best_part(links, scores, self.root, self.penalty)
        ]
        """From the top down: every token comes as a key before it comes as a query."""

    @property
    def nodes(self) -> list[int]:
        """Positions of the tokens in the tree, from the top down."""
        return [self.top if self.root is None else self.root, *(edge.key for edge in self.edges)]

    @property
    def objective(self) -> float:
        """What the tree tries to make large: the sum of its edges' scores minus the penalty for each of them."""
        return sum(edge.score - self.penalty for edge in self.edges)

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
            >>> tree = AttributionTree(explain("A warm, funny film."))
            >>> networkx.is_arborescence(tree.to_networkx())
            True
        """
        graph = nx.DiGraph()
        graph.add_nodes_from((node, {"token": self.tokens[node]}) for node in self.nodes)
        graph.add_edges_from(
            (e.query, e.key, {"layer": e.layer, "score": e.score, "share": e.share}) for e in self.edges
        )
        return graph

    def to_text(self) -> str:
        """As an indented tree for the terminal: each token with the layer in which it is looked at, score and share.

        Example:
            >>> import torch
            >>> from captum_attattr import AttributionTree
            >>> shares = torch.zeros(2, 1, 3, 3)
            >>> shares[1, 0, 0, 2] = 0.5
            >>> shares[0, 0, 2, 1] = 0.25
            >>> print(AttributionTree(shares, ["[CLS]", "not", "bad"]).to_text())
            ╙── [CLS]
                └── bad      layer 1  score 1.00  share +0.5000
                    └── not  layer 0  score 1.00  share +0.2500
        """
        graph = self.to_networkx().to_undirected()
        numbers = {
            edge.key: f"layer {edge.layer}  score {edge.score:.2f}  share {edge.share:+.4f}" for edge in self.edges
        }
        numbers |= {edge.key: f"{numbers[edge.key]}  crosses" for edge in self.edges if self._crosses(edge)}
        for node in graph:
            graph.nodes[node]["line"] = f"{' '.join(self.names[node].split())}\n{numbers.get(node, '')}"
        drawn = nx.generate_network_text(graph, with_labels="line", sources=[self.nodes[0]])
        lines = [line.split("\n") for line in drawn]
        width = max(len(words) for words, _ in lines)
        return "\n".join(f"{words:<{width}}  {rest}".rstrip() for words, rest in lines)

    def to_dot(self) -> str:
        """In Graphviz's language, for ``dot -Tsvg``: what is looked at in one layer stands at one height.

        Edges with larger scores are wider, and labelled with layer and score; those that cross sentences are green, one
        with a share that is not above zero is dashed.
        """
        lines = ["digraph {", "  node [shape=plaintext];", "  edge [arrowhead=none];"]
        lines += [f"  {node} [label={_quoted(self.tokens[node])}];" for node in self.nodes]
        for edge in self.edges:
            look = f'label="layer {edge.layer}, {edge.score:.2f}", penwidth={edge_width(edge):.2f}'
            look += ', color="darkgreen"' * self._crosses(edge) + ", style=dashed" * (edge.share <= 0)
            lines.append(f"  {edge.query} -> {edge.key} [{look}];")
        for layer in self.layers:
            keys = [str(edge.key) for edge in self.edges if edge.layer == layer]
            lines += [f"  {{ rank=same; {'; '.join(keys)}; }}"] if len(keys) > 1 else []
        return "\n".join([*lines, "}"])

    def plot(
        self, *, title: str | None = None, plt_fig_axis: tuple[Figure, Axes] | None = None, use_pyplot: bool = False
    ) -> tuple[Figure, Axes]:
        """Draw the tree over the sentence: heights are layers, wider edges have larger scores.

        A token stands in its own column, at the height where it is looked at; from there its line goes down to the
        layers in which it looks at others itself. The text stands at the foot, what is not in the tree in grey; of more
        than 60 tokens only those in the tree are drawn, and the title says so. Edges that cross the two sentences of a
        pair are green; the root's edge is dashed and orange if its share is not above zero.

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
        plan = Plan(self.tokens, self.segments, self.layers, self.nodes[0], self.edges, crossing)
        draw_tree(plan, axes, title, resize=plt_fig_axis is None)
        return shown(figure, use_pyplot), axes

    def __repr__(self) -> str:
        """Short: root, top node and size."""
        above = "" if self.root is None else f"{self.tokens[self.root]} -> "
        return f"AttributionTree({above}{self.tokens[self.top]}, {len(self.edges)} edges, {len(self.layers)} layers)"

    def _crosses(self, edge: Edge) -> bool:
        ends = {None} if self.segments is None else {self.segments[edge.query], self.segments[edge.key]}
        return None not in ends and len(ends) == 2


def _shares(attributions: Tensor | Sequence[Tensor]) -> Tensor:
    """(layer, query, key), summed over heads."""
    if not isinstance(attributions, Tensor):
        several = isinstance(attributions, (list, tuple))
        if not several or not all(isinstance(layer, Tensor) for layer in attributions):
            raise TypeError("Attributions must be an Explanation, a tensor, or a list with one tensor a layer.")
    stacked = stack_layers(list(attributions)).detach()
    if stacked.dim() == 5 and stacked.shape[1] == 1:
        stacked = stacked[:, 0]
    if stacked.dim() != 4 or stacked.shape[-1] != stacked.shape[-2] or stacked.shape[-1] < 2:
        raise ValueError(
            "A tree is made of one text's attributions (layer, head, query, key) with at least two tokens, got the "
            f"shape {tuple(stacked.shape)}. Of a batch take one text and cut off its padding."
        )
    if not stacked.isfinite().all():
        raise ValueError("Attributions hold NaN or infinite values.")
    return stacked.sum(1, dtype=torch.float64).cpu()


def _one_each(name: str, given: Iterable[T], count: int) -> list[T]:
    found = list(given)
    if len(found) != count:
        raise ValueError(f"Got {len(found)} {name} for attributions of {count}: give one each.")
    return found


def _fraction(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1 (edge scores are at most 1), got {value!r}.")
    return float(value)


def _root(root: Root, shares: Tensor) -> int | None:
    count = shares.shape[-1]
    if root == "none":
        return None
    if root == "auto":
        reader = only_reader(shares)
        return 0 if reader is None else reader
    if isinstance(root, bool) or not isinstance(root, int) or not -count <= root < count:
        raise ValueError(f"root must be the position of one of the {count} tokens, 'auto' or 'none', got {root!r}.")
    return root % count


def _sentences(explanation: Explanation) -> list[int | None] | None:
    """Each token's sentence, None for what the tokenizer added; None if the sentences cannot be told apart."""
    start = explanation.second_text_start
    if explanation.text_pair is not None and start is None:
        return None
    return [
        None if added else int(start is not None and place >= start) for place, added in enumerate(explanation.special)
    ]


def _quoted(token: str) -> str:
    return '"' + token.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
