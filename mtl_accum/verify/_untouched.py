"""Real steps without a trace: parameters, gradients, optimizer, buffers, batch and random state are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mtl_accum._state import KeptTensor, Weights, same_random_numbers
from mtl_accum.memory import TrainingStep
from mtl_accum.verify._trial import Sandbox

__all__ = ["without_a_trace"]


@contextmanager
def without_a_trace(step: TrainingStep) -> Iterator[None]:
    """Let steps run that change everything, and put all of it back at the end.

    The copies are on the host: a GPU needs no room for them.

    Args:
        step: whose network and optimizer to put back.
    """
    gradients = [parameter.grad for parameter in step.parameters]
    weights = Weights(step.parameters, step.optimizer)
    batch = [KeptTensor(leaf) for leaf in tree_leaves(step.batch) if isinstance(leaf, Tensor)]
    with same_random_numbers(), Sandbox(step.trunk, step.tasks, step.batch).untouched():
        try:
            step.zero_grad()
            yield
        finally:
            weights.restore()
            for tensor in batch:
                tensor.back_if_written()
            for parameter, gradient in zip(step.parameters, gradients, strict=True):
                parameter.grad = gradient
