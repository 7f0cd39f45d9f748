"""The forms of a schedule: a backward at once, or a loss with gradients attached for the caller's backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mtl_accum.editions._engine._leaves import Leaves
from mtl_accum.editions._engine.batch._pieces import Range, graph_of
from mtl_accum.editions._engine.graph._autocast import without_autocast
from mtl_accum.editions._engine.graph._gradients import Gradients
from mtl_accum.editions._engine.graph._own_graph import Behind, backpropagate
from mtl_accum.editions._engine.graph._scale import ambient_scale, start_gradient
from mtl_accum.editions._engine.ranks._share_out import Together

__all__ = ["Attached", "Backward", "Form"]


class Form(ABC):
    """The part of a schedule that differs between `forward_backward`, `loss` and `losses`.

    Attributes:
        defers: Whether the caller runs the trunk's backward.
        in_pieces: Whether the schedule runs for one of several pieces of a batch.
        together: Tasks that take part without terms, because other ranks have some.
    """

    defers: bool = False
    in_pieces: bool = False
    together: Together = Together()

    def groups(self, names: Sequence[str], size: int) -> list[Sequence[str]]:
        """Divide tasks into groups that share a graph, of at most that many tasks each."""
        return [names[start : start + size] for start in range(0, len(names), size)]

    @abstractmethod
    def begin(self, z: Leaves, behind: Callable[[], Behind]) -> None:
        """Prepare for heads whose graphs end at these leaves."""

    @abstractmethod
    def backward(self, names: Sequence[str], loss: Tensor, who: str, *, into_trunk: bool) -> None:
        """Process the sum of some tasks' losses while its graph is alive."""

    @abstractmethod
    def trunk_backward(self, z: Leaves, representation: Any, samples: Range | None = None) -> None:
        """Backpropagate the gradients in the leaves through the trunk, now or in the caller's backward."""


class Backward(Form):
    """`forward_backward`: every gradient is added to `.grad` at once."""

    def __init__(self) -> None:
        self._scale = ambient_scale()

    def begin(self, z: Leaves, behind: Callable[[], Behind]) -> None:
        """Do nothing: the backward ends in the leaves by itself."""

    def backward(self, names: Sequence[str], loss: Tensor, who: str, *, into_trunk: bool) -> None:
        """Run the backward."""
        with without_autocast():
            loss.backward(None if self._scale is None else start_gradient(loss, self._scale))

    def trunk_backward(self, z: Leaves, representation: Any, samples: Range | None = None) -> None:
        """Run the trunk's backward."""
        z.backward(representation, samples)


class Attached(Form):
    """`loss` and `losses`: gradients of heads are taken at once and attached; the trunk stays in autograd's graph.

    Args:
        scale: Factor that the caller multiplies the loss by.
        each: Whether every task has a gradient of its own, instead of one for all.
    """

    defers = True

    def __init__(self, scale: float | Tensor | None, *, each: bool) -> None:
        self.scale, self._each = scale, each
        self._gradients: dict[str, Gradients] = {}  # by task, or one
        self._plain: dict[str, Tensor] = {}  # losses whose graph includes the trunk
        self._z: Leaves | None = None
        self._behind: Behind | None = None

    def groups(self, names: Sequence[str], size: int) -> list[Sequence[str]]:
        """Divide tasks into groups that share a graph: of one task where each has a gradient of its own."""
        return super().groups(names, 1 if self._each else size)

    def begin(self, z: Leaves, behind: Callable[[], Behind]) -> None:
        """Prepare for heads whose graphs end at these leaves."""
        self._z, self._behind = z, behind()

    def backward(self, names: Sequence[str], loss: Tensor, who: str, *, into_trunk: bool) -> None:
        """Add up gradients, or keep a graph that includes the trunk."""
        key = names[0] if self._each else ""
        if into_trunk:
            self._plain[key] = self._plain[key] + loss if key in self._plain else loss
            return
        assert self._z is not None
        assert self._behind is not None
        gradients = self._gradients.setdefault(key, Gradients(self.scale))
        backpropagate(gradients, loss, self._z.sources, self._behind, who)

    def trunk_backward(self, z: Leaves, representation: Any, samples: Range | None = None) -> None:
        """Keep the gradients of the leaves for the representation."""
        roots = z.roots(representation)
        if self.in_pieces:  # free this piece's values before the next piece
            roots = {leaf: graph_of(root) if root.requires_grad else root for leaf, root in roots.items()}
        for gradients in self._gradients.values():
            gradients.move_to(roots)
        self._z = self._behind = None

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the sum of the losses, with its gradient attached."""
        if "" in self._plain:
            return self._plain[""]
        values = list(losses.values())
        return self._gradients.get("", Gradients()).attach(sum(values[1:], values[0]))

    def separate(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each with its own gradient attached."""
        return {
            name: self._plain[name] if name in self._plain else self._gradients.get(name, Gradients()).attach(loss)
            for name, loss in losses.items()
        }
