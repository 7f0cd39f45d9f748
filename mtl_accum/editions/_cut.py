"""The cut between the trunk and the heads, for a training loop of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mtl_accum.editions._engine import Leaves, explain_derivative, flatten, walk

__all__ = ["cut"]

T = TypeVar("T")


@contextmanager
def cut(representation: T) -> Iterator[T]:
    """Detach the representation into leaves; on leaving, backpropagate the sum of their gradients through the trunk.

    Equals one backward of the summed losses::

        with cut(encoder(x)) as z:        # z: the representation as detached leaves
            for task in tasks:
                task_loss(z).backward()   # this head's graph dies here
        # leaving the block backpropagates the summed dL/dz through the encoder, once

    Memory: the trunk's graph, one head's, and dL/dz, which is as large as the representation (twice as large
    where that is 16 bit: its gradient adds up in float32, and `z.grad` stays None). Passes: one each.

    An exception inside the block leaves without touching the trunk. The same tensor object twice in the
    representation is one leaf; tensors that require no gradient (integers, a frozen trunk) pass as they are. A block
    that no gradient reached is left with a warning.

    Args:
        representation: Any pytree of tensors, with the graph of the trunk behind it.

    Raises:
        TypeError: The representation holds a container that is not registered, by its path.
        RuntimeError: An optimizer of the trunk steps inside the block; or a head differentiates with respect to the
            network's input.
    """
    leaves = Leaves(representation)
    try:
        with _refusing_steps(representation):
            yield leaves.tree
    except RuntimeError as error:
        explain_derivative(error, "cut")
        raise
    if not leaves.backward(representation) and leaves.can_have_gradients:
        warnings.warn(
            "cut: no gradient reached the representation, so the trunk gets none from this block; expected a "
            "`loss.backward()` inside of it (a batch without a task is fine)",
            stacklevel=3,
        )


@contextmanager
def _refusing_steps(representation: Any) -> Iterator[None]:
    """Refuse an `optimizer.step()` inside the block, whose trunk has no gradient yet."""
    thread = get_ident()

    def refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if get_ident() != thread:
            return
        values = flatten(representation, "representation")[0]
        graph = walk(value for value in values if isinstance(value, Tensor) and value.requires_grad)
        behind = set(map(id, graph.leaves))
        if any(id(parameter) in behind for group in optimizer.param_groups for parameter in group["params"]):
            raise RuntimeError(
                f"cut: {type(optimizer).__name__}.step() ran inside the block, where the trunk has no gradient yet; "
                "move it after the block (an optimizer of the heads alone may step inside)"
            )

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
