"""Real training steps without a trace: parameters, gradients, optimizer, buffers, batch and random numbers restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from mtl_accum._state import preserved
from mtl_accum._torch_pytree import tree_leaves
from mtl_accum.memory import TrainingStep
from mtl_accum.verify._trial import Sandbox

__all__ = ["without_a_trace"]


@contextmanager
def without_a_trace(step: TrainingStep) -> Iterator[None]:
    """Restore everything that training steps in the block change.

    Copies of parameters, optimizer state and batch are on the host, and take no memory of a GPU.

    Args:
        step: Training step with the network, optimizer and batch to restore.
    """
    parameters = step.parameters
    inputs = [leaf for leaf in tree_leaves(step.batch) if isinstance(leaf, Tensor)]
    with (
        Sandbox(step.trunk, step.tasks, step.batch).untouched(),
        preserved(gradients=parameters, weights=parameters, optimizer=step.optimizer, inputs=inputs),
    ):
        step.zero_grad()
        yield
