"""The attribution tree as text, for the terminal and in Graphviz's language, and as a graph of networkx.

networkx is imported where it is needed only: most explanations are not drawn as trees, and its import takes long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from captum_attattr.colours import AGAINST, FOR
from captum_attattr.tree.growth import Edge
from captum_attattr.tree.layout import numbers_of, widths

if TYPE_CHECKING:
    import networkx


def as_text(names: Sequence[str], top: int, edges: Sequence[Edge], crossing: Collection[Edge], whole: str) -> str:
    """Write an indented tree with the layer, attribution and score of each edge; scores are fractions of ``whole``."""
    import networkx

    graph = networkx.Graph([(edge.query, edge.key) for edge in edges])
    graph.add_node(top)
    numbers = {
        edge.key: f"layer {edge.layer}  {number}  {abs(edge.score):4.0%} of {whole}" + "  crosses" * (edge in crossing)
        for edge, number in zip(edges, numbers_of(edges), strict=True)
    }
    for node in graph:
        graph.nodes[node]["line"] = f"{' '.join(names[node].split())}\n{numbers.get(node, '')}"
    drawn = networkx.generate_network_text(graph, with_labels="line", sources=[top])
    lines = [line.split("\n") for line in drawn]
    width = max(len(words) for words, _ in lines)
    return "\n".join(f"{words:<{width}}  {rest}".rstrip() for words, rest in lines)


def as_dot(
    tokens: Sequence[str], layers: Sequence[int], top: int, edges: Sequence[Edge], crossing: Collection[Edge]
) -> str:
    """Write the tree for ``dot -Tsvg``, with the keys of one layer at one height."""
    lines = ["digraph {", "  node [shape=plaintext];", "  edge [arrowhead=none];"]
    lines += [f"  {node} [label={_quoted(tokens[node])}];" for node in (top, *(edge.key for edge in edges))]
    for edge, width, number in zip(edges, widths(edges), numbers_of(edges), strict=True):
        look = f'label="layer {edge.layer}, {number}", penwidth={width:.2f}'
        look += f', color="{FOR if edge.attribution > 0 else AGAINST}"' + ", style=dashed" * (edge in crossing)
        lines.append(f"  {edge.query} -> {edge.key} [{look}];")
    for layer in layers:
        keys = [str(edge.key) for edge in edges if edge.layer == layer]
        lines += [f"  {{ rank=same; {'; '.join(keys)}; }}"] if len(keys) > 1 else []
    return "\n".join([*lines, "}"])


def as_graph(tokens: Sequence[str], nodes: Iterable[int], edges: Iterable[Edge]) -> networkx.DiGraph:
    """Return the tree as a directed graph, see :meth:`AttributionTree.to_networkx`."""
    import networkx

    graph = networkx.DiGraph()
    graph.add_nodes_from((node, {"token": tokens[node]}) for node in nodes)
    graph.add_edges_from((e.query, e.key, {"layer": e.layer, "score": e.score, "share": e.attribution}) for e in edges)
    return graph


def _quoted(token: str) -> str:
    return '"' + token.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
