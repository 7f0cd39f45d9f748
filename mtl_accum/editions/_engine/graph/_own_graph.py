"""The graph of one head, from its loss to the cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mtl_accum.editions._engine.batch._pytree import leaves
from mtl_accum.editions._engine.graph._gradients import Gradients, Sources
from mtl_accum.editions._engine.graph._walk import Beginning, Graph, walk

__all__ = ["Behind", "backpropagate", "own_graph"]


@dataclass(frozen=True)
class Behind:
    """The graph behind a cut, and the part of it that a head's graph may share.

    Attributes:
        roots: Tensors that were cut, with their graphs. Without any, a head's graph may share nothing.
        beginning: Beginning of the heads' graphs.
        batch: Batch whose tensors, and slices of them, trunk and heads may both read.
        since: Beginning of the roots' graphs, where these are of pieces of the batch: no head may read a node that was
            made since then, as it belongs to one piece only.
    """

    roots: Sequence[Tensor]
    beginning: Beginning = field(default_factory=Beginning)
    batch: Any = None
    since: Beginning | None = None

    def meets(self, graph: Graph) -> bool:
        """Return whether a head's graph shares nodes with the graph behind the cut."""
        if not graph.outside:
            return False
        cuts = {node for node in walk(_with_graphs(leaves(self.batch))).nodes if node.name() == "SliceBackward0"}
        others = graph.outside - cuts  # slices keep nothing that could be freed
        if not self.roots or (self.since is not None and self.since.nodes_since(others)):
            return bool(others)
        return not others.isdisjoint(walk(_with_graphs(self.roots)).nodes)


def backpropagate(gradients: Gradients, loss: Tensor, sources: Sources, behind: Behind, who: str) -> None:
    """Backpropagate a head's loss as far as the cut, and free its graph.

    Args:
        gradients: Gradients to add to.
        loss: 0-dim loss with a graph.
        sources: Leaves of the cut.
        behind: Graph behind the cut.
        who: Name of the head in messages.

    Raises:
        RuntimeError: See `own_graph`.
    """
    graph = own_graph(loss, behind, who, dtypes=gradients.unscaled)
    gradients.add_loss(loss, graph.leaves, sources)


def own_graph(loss: Tensor, behind: Behind, who: str, *, dtypes: bool) -> Graph:
    """Return the graph behind a loss, which ends at the cut.

    Raises:
        RuntimeError: The graph shares nodes with the one behind the cut, or, with `dtypes`, it is in fp16.
    """
    graph = walk([loss], behind.beginning, dtypes=dtypes)
    if behind.meets(graph):
        raise RuntimeError(
            f"{who}: expected to read the representation alone, but it reads a tensor that was computed on the way to "
            "it (features kept in an attribute or by a hook), whose graph is still needed; make that tensor a part of "
            "the representation, or an input of its own"
        )
    if graph.in_float16:
        raise RuntimeError(
            f"{who}: expected scale= for values in float16, whose small gradients become 0 before the loss is "
            "multiplied; pass the scaler's, scale=scaler.get_scale, or use bfloat16"
        )
    return graph


def _with_graphs(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]
