"""A function as a networkx graph, for the analyses that need a graph algorithm (convexity, layers, components)."""

from __future__ import annotations

import networkx as nx

from nomul.ir.graph import Func


def to_networkx(func: Func) -> nx.MultiDiGraph:
    """One vertex per node (attribute `position`: its place in execution order), one edge per operand that a node makes.

    Edges run from producer to user and carry `value` and `operand`, the position among the user's operands. The graph
    is a copy: changing it does not change the function. Parameters, weights and literals are not in it."""
    graph = nx.MultiDiGraph(name=func.name)
    for position, node in enumerate(func.nodes):
        graph.add_node(node, position=position)
    for node in func.nodes:
        for operand, value in enumerate(node.args):
            if value is not None and value.producer is not None:
                graph.add_edge(value.producer, node, value=value, operand=operand)
    return graph
