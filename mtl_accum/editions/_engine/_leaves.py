"""A representation as detached leaves, and the sum of the gradients that heads leave in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine._phase import phase
from mtl_accum.editions._engine.batch._cutting import Range, cutter
from mtl_accum.editions._engine.batch._pieces import Piece
from mtl_accum.editions._engine.batch._pytree import flatten, unflatten
from mtl_accum.editions._engine.graph._autocast import without_autocast
from mtl_accum.editions._engine.graph._gradients import SHORT, Sources, Sum

__all__ = ["Leaves"]


class Leaves:
    """A representation as detached leaves, and the sum of the gradients that heads leave in them.

    Args:
        representation: any pytree of tensors.
        require_grad: every tensor that can have a gradient is a leaf, with a graph behind it or not.

    Attributes:
        tree: the representation with leaves in place of its tensors.
    """

    def __init__(self, representation: Any, *, require_grad: bool = False) -> None:
        self._values, spec = flatten(representation, "representation")
        made: dict[int, _Leaf] = {}
        self._leaves = [_leaf(value, require_grad, made) for value in self._values]
        self._parts: list[tuple[Range, Leaves]] = []
        pairs = zip(self._values, self._leaves, strict=True)
        self.tree = unflatten([value if leaf is None else leaf.tensor for value, leaf in pairs], spec)

    def cut(self, pieces: Sequence[Piece]) -> list[tuple[Piece, Any]]:
        """The leaves of every piece, whose gradients add up until they `land`; a whole batch has these leaves.

        Raises:
            ValueError: a tensor has not the samples in dimension 0.
        """
        if pieces[0].samples is None:
            return [(pieces[0], self.tree)]
        ranges = [piece.samples for piece in pieces if piece.samples is not None]
        part = cutter(self.tree, "representation", ranges[-1][1], of_batch=False)
        self._parts = [(samples, Leaves(part(samples))) for samples in ranges]
        return [(piece, part.tree) for piece, (_, part) in zip(pieces, self._parts, strict=True)]

    @cached_property
    def sources(self) -> Sources:
        """Return, for every leaf that heads see, the leaf of the whole batch and which of its samples it is."""
        own = {leaf.tensor: (leaf.tensor, None) for leaf in self._leaves if leaf is not None}
        parts = {
            theirs.tensor: (mine.tensor, samples)
            for samples, part in self._parts
            for mine, theirs in zip(self._leaves, part._leaves, strict=True)
            if mine is not None and theirs is not None
        }
        return {**own, **parts}

    def roots(self, representation: Any) -> dict[Tensor, Tensor]:
        """Return, for every leaf, the tensor with a graph that it was detached from."""
        values = flatten(representation, "representation")[0]
        return {leaf.tensor: value for value, leaf in zip(values, self._leaves, strict=True) if leaf is not None}

    def land(self) -> None:
        """Add what the leaves of the pieces have summed up, in their slices."""
        while self._parts:
            samples, part = self._parts.pop()  # freed one by one
            for mine, theirs in zip(self._leaves, part._leaves, strict=True):
                if mine is not None and theirs is not None:
                    mine.add(theirs.give(), samples)

    @property
    def expected(self) -> bool:
        """Whether a gradient can reach a leaf at all."""
        return any(leaf is not None for leaf in self._leaves)

    def send_back(self, representation: Any, samples: Range | None = None) -> bool:
        """Backward of a representation with its graph, of all samples or of some, from the summed gradients.

        Returns:
            Whether there was a gradient.
        """
        values = self._values if samples is None else flatten(representation, "representation")[0]
        roots, gradients, seen = [], [], set()
        for root, leaf in zip(values, self._leaves, strict=True):
            gradient = None if leaf is None or leaf in seen else leaf.sum() if samples else leaf.give()
            if gradient is not None and root.requires_grad:
                seen.add(leaf)
                roots.append(root)
                gradients.append((gradient if samples is None else gradient[slice(*samples)]).to(root.dtype))
            del gradient  # a sum in float32 has done its work
        if roots:
            with phase("trunk", "backward"), without_autocast():
                start = _Handing.apply(gradients, *roots)  # type: ignore[no-untyped-call]
                torch.autograd.backward(start)
        return bool(roots)


def _leaf(value: Any, require_grad: bool, made: dict[int, _Leaf]) -> _Leaf | None:
    """The leaf for a tensor, the same one for the same tensor; None for what can have no gradient."""
    if not isinstance(value, Tensor):
        return None
    if not value.requires_grad and not (require_grad and (value.is_floating_point() or value.is_complex())):
        return None
    return made.get(id(value)) or made.setdefault(id(value), _Leaf(value))


class _Leaf:
    """A detached tensor and what the heads' backwards have added up for it: in `.grad`, or where that would not do."""

    def __init__(self, value: Tensor) -> None:
        self.tensor = value.detach().requires_grad_()
        self._sum: Sum | None = None
        if value.dtype in SHORT or value.is_nested:  # autograd does not add two gradients of a nested tensor
            self._sum = Sum(wide=True)
            self.tensor.register_post_accumulate_grad_hook(self._sum.take)

    def add(self, gradient: Tensor | None, samples: Range) -> None:
        """Add a gradient in its slice."""
        if gradient is not None:
            self._sum = self._sum or Sum(wide=True)
            self._sum.add_slice(gradient, samples, self.tensor)

    def sum(self) -> Tensor | None:
        """All that has been added; None if no head reached the leaf."""
        return self.tensor.grad if self._sum is None else self._sum.value

    def give(self) -> Tensor | None:
        """The same, and keep it no longer."""
        total, self.tensor.grad = self.sum(), None
        if self._sum is not None:
            self._sum.value = None
        return total


class _Handing(torch.autograd.Function):
    """Starts a backward from gradients that nobody else holds: each is freed when the trunk has used it.

    `torch.autograd.backward(roots, gradients)` would hold all of them until the end.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *roots: Tensor) -> Tensor:
        """A number to start from; takes the gradients over."""
        ctx.gradients = gradients[:]
        gradients.clear()
        return torch.zeros((), device=roots[0].device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Hand them out."""
        gradients, ctx.gradients = ctx.gradients, None
        return None, *gradients
