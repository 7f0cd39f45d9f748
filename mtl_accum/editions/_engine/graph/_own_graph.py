"""The graph of one head, which ends at the cut."""

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
    """What lies behind a cut, and what a graph in front of it may share with that.

    Attributes:
        roots: The tensors that were cut, with their graphs. Without any, nothing may lie behind.
        beginning: When graphs in front of the cut were begun.
        batch: Whose tensors, and pieces of them, both sides may read.
        since: When the roots were begun, where no graph in front may read what was made since then: their graphs are
            of pieces of the batch, and what else the pieces made is of one piece alone.
    """

    roots: Sequence[Tensor]
    beginning: Beginning = field(default_factory=Beginning)
    batch: Any = None
    since: Beginning | None = None

    def meets(self, graph: Graph) -> bool:
        """Return whether a graph reads what is not its own."""
        if not graph.outside:
            return False
        cuts = {node for node in walk(_with_graphs(leaves(self.batch))).nodes if node.name() == "SliceBackward0"}
        others = graph.outside - cuts  # which keep nothing that could be freed
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
        RuntimeError: The graph runs into the one behind the cut, or, where dtypes are looked at, it is in fp16.
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
