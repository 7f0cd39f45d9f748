"""The cut between the trunk and the heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from mtl_accum.editions._pytree import flatten, unflatten

__all__ = ["cut"]

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
    values, spec = flatten(representation, "representation")
    roots = {id(value): value for value in values if isinstance(value, Tensor) and value.requires_grad}
    leaves = {key: _Leaf(root) for key, root in roots.items()}
    yield unflatten([leaves[id(v)].tensor if id(v) in leaves else v for v in values], spec)
    reached = [(roots[key], gradient) for key, leaf in leaves.items() if (gradient := leaf.take()) is not None]
    if reached:
        tensors, gradients = zip(*reached, strict=True)
        torch.autograd.backward(tensors, gradients)


class _Leaf:
    """A detached tensor and what the heads' backwards have added up in it."""

    def __init__(self, root: Tensor) -> None:
        self.tensor = root.detach().requires_grad_()
        self._sum: Tensor | None = None
        if root.dtype in (torch.bfloat16, torch.float16):
            self.tensor.register_post_accumulate_grad_hook(self._add)

    def _add(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        term, leaf.grad = leaf.grad.float(), None
        self._sum = term if self._sum is None else self._sum.add_(term)

    def take(self) -> Tensor | None:
        """The sum of the gradients, in the leaf's own precision; None if no head reached the leaf."""
        gradient, self.tensor.grad = self.tensor.grad, None
        return gradient if self._sum is None else self._sum.to(self.tensor.dtype)
