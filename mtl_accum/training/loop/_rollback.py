"""Rollback of a training step after out-of-memory.

Taking the snapshot must cost microseconds: it runs before every step and is almost never used.
"""

from __future__ import annotations

import torch
from torch import nn

from mtl_accum._state import BufferSnapshot, RngState, WeightSnapshot, WriteDetector

__all__ = ["StepRollback"]


class StepRollback:
    """Parameters, optimizer, buffers and random numbers as they were at the start of a step.

    Args:
        model: Network whose parameters and buffers to restore.
        optimizer: Optimizer of the parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = list(model.parameters()), optimizer
        self._modules = [module for module in model.modules() if module._buffers]
        self._buffers, self._writes = BufferSnapshot(), WriteDetector(self._parameters, optimizer)

    def mark(self, *, copy: bool) -> None:
        """Save the start of a step.

        Args:
            copy: Whether to copy parameters and optimizer state to the host. Without copies, a step that has written
                to them cannot be rolled back.
        """
        self._random = RngState.capture()
        self._buffers.renew(self._modules)
        self._weights: WeightSnapshot | WriteDetector = self._writes
        if copy:
            self._weights = WeightSnapshot(self._parameters, self._optimizer)
        else:
            self._writes.mark()

    def restore(self) -> None:
        """Restore the start of the step.

        Raises:
            RollbackError: Parameters or optimizer state were written to, and there is no copy of them.
        """
        self._weights.restore()
        self._buffers.restore()
        self._random.restore()
