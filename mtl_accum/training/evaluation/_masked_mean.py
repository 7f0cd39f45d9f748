"""Mean error over the valid entries of targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from mtl_accum._validate import require_callables
from mtl_accum.models import Error, Valid, masked_sum

__all__ = ["MaskedMean"]


class MaskedMean(Metric):
    """Mean of an error over the valid entries of all targets; see `MaskedLoss`.

    Args:
        error: Function from prediction and target to values.
        valid: Function from the target to a mask of the values' shape.

    Raises:
        ValueError: An argument is not callable.
    """

    total: Tensor
    count: Tensor

    def __init__(self, error: Error, valid: Valid) -> None:
        super().__init__()
        require_callables(error=error, valid=valid)
        self._error, self._valid = error, valid
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        total, count = masked_sum(self._error, self._valid, prediction, target)
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """Return the mean; NaN if no entry was valid."""
        return self.total / self.count
