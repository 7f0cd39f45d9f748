"""One context manager that puts a network back as it was: buffers, weights, gradients, inputs, random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from mtl_accum._state._buffers import BufferSnapshot
from mtl_accum._state._rng import same_random_numbers
from mtl_accum._state._weights import GradientSnapshot, TensorSnapshot, WeightSnapshot

__all__ = ["preserved"]


@contextmanager
def preserved(
    modules: Iterable[nn.Module] = (),
    *,
    gradients: Iterable[Tensor] = (),
    weights: Iterable[Tensor] = (),
    optimizer: torch.optim.Optimizer | None = None,
    inputs: Iterable[Tensor] = (),
) -> Iterator[None]:
    """Restore state at the end of the block, bit for bit: random numbers always, and what is given.

    Args:
        modules: Modules whose buffers to restore; submodules are not searched.
        gradients: Tensors whose `.grad` to restore.
        weights: Parameters whose values to restore; the copies are on the host.
        optimizer: Optimizer whose state and groups to restore; the copies are on the host.
        inputs: Tensors whose values to restore if they are written to; the copies are on the host.
    """
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        stack.callback(GradientSnapshot(gradients).restore)
        for tensor in inputs:
            stack.callback(TensorSnapshot(tensor).restore_if_written)
        stack.callback(WeightSnapshot(weights, optimizer).restore)
        stack.callback(BufferSnapshot(modules).restore)
        yield
