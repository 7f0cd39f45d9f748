"""Walks through autograd's graph to its leaves, including tensors in closures that no module search reaches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Beginning", "Graph", "walk"]


class Beginning:
    """A moment in this thread, to tell nodes of a graph that were made before it from later ones."""

    def __init__(self) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            node = torch.empty((), requires_grad=True).view(()).grad_fn
        assert node is not None
        self._number = node._sequence_nr()

    def before(self, node: Any) -> bool:
        """Return whether a node was made earlier."""
        return bool(node._sequence_nr() < self._number)

    def nodes_since(self, nodes: set[Any]) -> set[Any]:
        """Return the nodes that were made later."""
        return {node for node in nodes if not self.before(node)}


@dataclass
class Graph:
    """A graph of autograd, walked.

    Attributes:
        leaves: Leaf tensors, each once.
        nodes: Nodes without those of the leaves.
        outside: Nodes that were made before the beginning of the graph.
        in_float16: Whether a value is in float16; False unless `dtypes` was set.
    """

    leaves: list[Tensor] = field(default_factory=list)
    nodes: set[Any] = field(default_factory=set)
    outside: set[Any] = field(default_factory=set)
    in_float16: bool = False


def walk(roots: Iterable[Tensor], beginning: Beginning | None = None, *, dtypes: bool = False) -> Graph:
    """Walk the graph behind some tensors that require a gradient.

    Args:
        roots: Tensors that require a gradient.
        beginning: Beginning of their graph; by default no node is outside.
        dtypes: Whether to look for float16.
    """
    graph = Graph()
    leaves: dict[Tensor, None] = {}
    pending: list[Any] = []
    for root in roots:
        if root.grad_fn is None:
            leaves[root] = None
        else:
            pending.append(root.grad_fn)
    while pending:
        node = pending.pop()
        if node in graph.nodes:
            continue
        following = node.next_functions
        if not following:  # a leaf's node; a user's Function may have an attribute of that name
            variable = getattr(node, "variable", None)
            if isinstance(variable, Tensor) and variable.requires_grad:
                leaves[variable] = None
                graph.in_float16 |= dtypes and variable.dtype is torch.float16
            continue
        graph.nodes.add(node)
        if beginning is not None and beginning.before(node):
            graph.outside.add(node)
        if dtypes and not graph.in_float16:
            graph.in_float16 = any(value.dtype is torch.float16 for value in node._input_metadata)
        pending += [below for below, _ in following if below is not None]
    graph.leaves = list(leaves)
    return graph
