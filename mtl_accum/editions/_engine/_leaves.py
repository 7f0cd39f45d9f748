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
        representation: Any pytree of tensors.
        require_grad: Whether every tensor that can have a gradient is a leaf, also one without a graph behind it.

    Attributes:
        tree: The representation with leaves in place of its tensors.
    """

    def __init__(self, representation: Any, *, require_grad: bool = False) -> None:
        self._values, spec = flatten(representation, "representation")
        made: dict[int, _Leaf] = {}
        self._leaves = [_leaf(value, require_grad, made) for value in self._values]
        self._chunks: list[tuple[Range, Leaves]] = []
        pairs = zip(self._values, self._leaves, strict=True)
        self.tree = unflatten([value if leaf is None else leaf.tensor for value, leaf in pairs], spec)

    def cut(self, pieces: Sequence[Piece]) -> list[tuple[Piece, Any]]:
        """Return the tree for each piece; the gradients of pieces are separate until `merge_chunks`.

        A batch that is not cut has the tree of these leaves.

        Raises:
            ValueError: A tensor has other than the batch's samples in dimension 0.
        """
        if pieces[0].samples is None:
            return [(pieces[0], self.tree)]
        ranges = [piece.samples for piece in pieces if piece.samples is not None]
        part = cutter(self.tree, "representation", ranges[-1][1], of_batch=False)
        self._chunks = [(samples, Leaves(part(samples))) for samples in ranges]
        return [(piece, chunk.tree) for piece, (_, chunk) in zip(pieces, self._chunks, strict=True)]

    @cached_property
    def sources(self) -> Sources:
        """For every leaf that heads read, the leaf of the whole batch and the slice of it."""
        own = {leaf.tensor: (leaf.tensor, None) for leaf in self._leaves if leaf is not None}
        parts = {
            of_chunk.tensor: (leaf.tensor, samples)
            for samples, chunk in self._chunks
            for leaf, of_chunk in zip(self._leaves, chunk._leaves, strict=True)
            if leaf is not None and of_chunk is not None
        }
        return {**own, **parts}

    def roots(self, representation: Any) -> dict[Tensor, Tensor]:
        """Return, for every leaf, the tensor with a graph that it was detached from."""
        values = flatten(representation, "representation")[0]
        return {leaf.tensor: value for value, leaf in zip(values, self._leaves, strict=True) if leaf is not None}

    def merge_chunks(self) -> None:
        """Add the gradients of the pieces to those of the whole batch, each in its slice."""
        while self._chunks:
            samples, chunk = self._chunks.pop()  # freed one by one
            for leaf, of_chunk in zip(self._leaves, chunk._leaves, strict=True):
                if leaf is not None and of_chunk is not None:
                    leaf.add(of_chunk.pop(), samples)

    @property
    def can_have_gradients(self) -> bool:
        """Whether a gradient can reach a leaf at all."""
        return any(leaf is not None for leaf in self._leaves)

    def backward(self, representation: Any, samples: Range | None = None) -> bool:
        """Backpropagate the accumulated dL/dz through the trunk: all of it, or the slice of one trunk chunk.

        Args:
            representation: The trunk's output, with its graph.
            samples: Slice that the representation is of; None for the whole batch.

        Returns:
            Whether there was a gradient.
        """
        outputs, gradients = self._outputs_with_gradients(representation, samples)
        if outputs:
            with phase("trunk", "backward"), without_autocast():
                if samples is not None and all(gradient._is_view() for gradient in gradients):
                    torch.autograd.backward(outputs, gradients)  # slices of sums that the leaves keep: nothing to free
                else:
                    torch.autograd.backward(_ReleasingBackward.apply(gradients, *outputs))  # type: ignore[no-untyped-call]
        return bool(outputs)

    def _outputs_with_gradients(self, representation: Any, samples: Range | None) -> tuple[list[Tensor], list[Tensor]]:
        """Pair each output that requires a gradient with its own. A function, so its locals die before the backward."""
        values = self._values if samples is None else flatten(representation, "representation")[0]
        outputs, gradients, done = [], [], set()
        for output, leaf in zip(values, self._leaves, strict=True):
            if leaf is None or leaf in done:
                continue
            gradient = leaf.pop() if samples is None else leaf.slice_of(samples)
            if gradient is not None and output.requires_grad:
                done.add(leaf)
                outputs.append(output)
                gradients.append(gradient.to(output.dtype))
        return outputs, gradients


def _leaf(value: Any, require_grad: bool, made: dict[int, _Leaf]) -> _Leaf | None:
    """Return the leaf of a tensor, the same one for the same tensor; None for what can have no gradient."""
    if not isinstance(value, Tensor):
        return None
    if not value.requires_grad and not (require_grad and (value.is_floating_point() or value.is_complex())):
        return None
    return made.get(id(value)) or made.setdefault(id(value), _Leaf(value))


class _Leaf:
    """A detached tensor, and the sum of its gradients: in `.grad`, or beside it where autograd would add in 16 bit."""

    def __init__(self, value: Tensor) -> None:
        self.tensor = value.detach().requires_grad_()
        self._sum: Sum | None = None
        if value.dtype in SHORT or value.is_nested:  # autograd does not add two gradients of a nested tensor
            self._sum = Sum(wide=True)
            self.tensor.register_post_accumulate_grad_hook(self._sum.add_grad_of)

    def add(self, gradient: Tensor | None, samples: Range) -> None:
        """Add the gradient of some samples."""
        if gradient is not None:
            self._sum = self._sum or Sum(wide=True)
            self._sum.add_slice(gradient, samples, self.tensor)

    def slice_of(self, samples: Range) -> Tensor | None:
        """Return the gradient of some samples; None if no head reached the leaf."""
        total = self._total()
        return None if total is None else total[slice(*samples)]

    def pop(self) -> Tensor | None:
        """Return the whole gradient and release it; None if no head reached the leaf."""
        total, self.tensor.grad = self._total(), None
        if self._sum is not None:
            self._sum.value = None
        return total

    def _total(self) -> Tensor | None:
        return self.tensor.grad if self._sum is None else self._sum.value


class _ReleasingBackward(torch.autograd.Function):
    """Start of a backward from gradients with no other reference: each is freed once the trunk has used it.

    `torch.autograd.backward(outputs, gradients)` would hold all of them until the end.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *outputs: Tensor) -> Tensor:
        """Take the gradients over, and return a number to start from."""
        ctx.gradients = gradients[:]
        gradients.clear()
        return torch.zeros((), device=outputs[0].device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the outputs."""
        gradients, ctx.gradients = ctx.gradients, None
        return None, *gradients
