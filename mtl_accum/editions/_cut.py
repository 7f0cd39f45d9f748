"""The cut between the trunk and the heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from mtl_accum.editions._pieces import Range, samples_of, take
from mtl_accum.editions._pytree import flatten, unflatten

__all__ = ["Leaves", "cut"]

T = TypeVar("T")


@contextmanager
def cut(representation: T) -> Iterator[T]:
    """Hand out the representation as detached leaves; on leaving, send the sum of their gradients through the trunk.

    Equals one backward of the summed losses::

        with cut(encoder(x)) as z:        # z: the representation as detached leaves
            for task in tasks:
                task_loss(z).backward()   # this head's graph dies here
        # leaving the block sends the summed dL/dz through the encoder, once

    Memory: the trunk's graph, one head's, and dL/dz, which is as large as the representation (twice as large
    where that is 16 bit: its gradient adds up in float32, and `z.grad` stays None). Passes: one each.

    An exception inside the block leaves without touching the trunk. The same tensor object twice in the
    representation is one leaf; tensors that require no gradient (integers, a frozen trunk) pass as they are.

    Args:
        representation: any pytree of tensors, with the graph of the trunk behind it.

    Raises:
        TypeError: the representation holds a container that is not registered, by its path.
    """
    leaves = Leaves(representation)
    yield leaves.tree
    leaves.send_back(representation)


class Leaves:
    """A representation as detached leaves, and the sum of the gradients that heads leave in them.

    Args:
        representation: any pytree of tensors.
        require_grad: every tensor that can have a gradient is a leaf, with a graph behind it or not.

    Attributes:
        tree: the representation with leaves in place of its tensors.
    """

    def __init__(self, representation: Any, *, require_grad: bool = False) -> None:
        self._values, self._spec = flatten(representation, "representation")
        self._leaves = {
            id(value): _Leaf(value)
            for value in self._values
            if isinstance(value, Tensor)
            and (value.requires_grad or (require_grad and (value.is_floating_point() or value.is_complex())))
        }
        self.tree = self._with({key: leaf.tensor for key, leaf in self._leaves.items()})

    def piece(self, samples: Range | None) -> Leaves:
        """Some samples of every leaf, as leaves of their own; None means these leaves themselves.

        Raises:
            ValueError: a tensor has not the samples in dimension 0.
        """
        if samples is None:
            return self
        samples_of(self.tree, "representation")
        return Leaves(take(self.tree, samples), require_grad=False)

    def land(self, piece: Leaves, samples: Range | None) -> None:
        """Add what a piece's leaves have summed up, in their slice."""
        if samples is not None:
            for mine, theirs in zip(self._values, piece._values, strict=True):
                if id(mine) in self._leaves:
                    self._leaves[id(mine)].add(piece._leaves[id(theirs)].sum(), samples)

    def send_back(self, representation: Any, samples: Range | None = None) -> None:
        """Backward of a representation with its graph, of all samples or of some, from the summed gradients."""
        values, _ = flatten(representation, "representation")
        reached: dict[int, tuple[Tensor, Tensor]] = {}
        for key, value in zip(map(id, self._values), values, strict=True):
            gradient = self._leaves[key].sum() if key in self._leaves else None
            if gradient is not None and value.requires_grad:
                of_samples = gradient if samples is None else gradient[slice(*samples)]
                reached[key] = value, of_samples.to(value.dtype)
        if reached:
            tensors, gradients = zip(*reached.values(), strict=True)
            torch.autograd.backward(tensors, gradients)

    def _with(self, tensors: dict[int, Tensor]) -> Any:
        return unflatten([tensors.get(id(value), value) for value in self._values], self._spec)


class _Leaf:
    """A detached tensor and what the heads' backwards have added up for it."""

    def __init__(self, value: Tensor) -> None:
        self.tensor = value.detach().requires_grad_()
        self._sum = _Sum(torch.float32 if value.dtype in (torch.bfloat16, torch.float16) else value.dtype)
        if self._sum.dtype != value.dtype:
            self.tensor.register_post_accumulate_grad_hook(self._sum.take)

    def add(self, gradient: Tensor | None, samples: Range) -> None:
        """Add a gradient in its slice."""
        if gradient is not None:
            if self._sum.value is None:
                self._sum.value = torch.zeros_like(self.tensor, dtype=self._sum.dtype, requires_grad=False)
            self._sum.value[slice(*samples)] += gradient

    def sum(self) -> Tensor | None:
        """All that has been added; None if no head reached the leaf."""
        return self.tensor.grad if self._sum.value is None else self._sum.value


class _Sum:
    """A sum where autograd's own, `.grad`, would not do; knows no tensor that has it as a hook, or both would stay."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.value: Tensor | None = None

    def take(self, tensor: Tensor) -> None:
        """Move a leaf's new gradient over; autograd calls this right after it has set it."""
        assert tensor.grad is not None
        term, tensor.grad = tensor.grad.to(self.dtype), None
        self.value = term if self.value is None else self.value.add_(term)
