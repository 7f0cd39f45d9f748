"""Masked losses: means over the valid entries of a target, such as measured depths or labelled tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum._validate import require_callables
from mtl_accum.models._multi_task import Selector, select

__all__ = [
    "Error",
    "MaskedLoss",
    "TokenCrossEntropy",
    "Valid",
    "absolute_error",
    "angle",
    "cosine_distance",
    "count_valid",
    "has_direction",
    "hit",
    "is_labelled",
    "is_positive",
    "is_present",
    "masked_sum",
    "squared_error",
]

Valid = Callable[[Tensor], Tensor]  # target -> bool mask of its valid entries
Error = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> values of the shape of the mask


class MaskedLoss(nn.Module):
    """Mean of an error over the valid entries of the target; use it with `Task(count=count_valid(...))`.

    Args:
        error: Function from output and target to values. Invalid entries of the target are 0 there.
        valid: Function from the target to a mask of the shape of the values.

    Raises:
        TypeError: error or valid cannot be called.
    """

    def __init__(self, error: Error, valid: Valid) -> None:
        super().__init__()
        require_callables(error=error, valid=valid)
        self._error, self._valid = error, valid

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return a 0-dim loss, NaN if no entry is valid."""
        total, count = masked_sum(self._error, self._valid, output, target)
        return total / count


class TokenCrossEntropy(nn.Module):
    """Mean cross-entropy of tokens: logits (N, L, classes), labels (N, L) with -100 where there is none."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return a 0-dim loss, NaN if no token has a label."""
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def masked_sum(error: Error, valid: Valid, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of an error over the valid entries, and their number."""
    mask = valid(target)
    filled = torch.where(mask, target, torch.zeros_like(target))  # a NaN would reach the gradient through the mask
    return (error(output, filled) * mask).sum(), mask.sum()


def count_valid(target: Selector, valid: Valid) -> Callable[[Any], Tensor]:
    """Make the count of a `MaskedLoss`: the number of valid entries.

    Args:
        target: Key of the batch, or callable of it, for the target.
        valid: Function from the target to a mask, the same as of the loss.

    Returns:
        Function of the batch that returns a 0-dim tensor, for `Task(count=...)`.
    """
    return partial(_count, target, valid)


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Compute |output - target| for every entry."""
    return (output - target).abs()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Compute (output - target) ** 2 for every entry."""
    return (output - target).square()


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - cosine of the angle between vectors in dimension 1: (N, C, ...) -> (N, 1, ...), from 0 to 2."""
    return 1 - F.cosine_similarity(output, target, dim=1).unsqueeze(1)


def angle(output: Tensor, target: Tensor) -> Tensor:
    """Compute the angle between vectors in dimension 1, in degrees: (N, C, ...) -> (N, 1, ...); for metrics."""
    return torch.acos((1 - cosine_distance(output, target)).clamp(-1, 1)) * (180 / math.pi)


def hit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where the largest logit is at the label, else 0: (..., classes), (...) -> (...); for metrics."""
    return (logits.argmax(-1) == labels).float()


def is_positive(target: Tensor) -> Tensor:
    """Mark entries above 0, such as measured depths; sensors write 0 for missing values."""
    return target > 0


def has_direction(target: Tensor) -> Tensor:
    """Mark vectors in dimension 1 that are not 0: (N, C, ...) -> (N, 1, ...)."""
    return (target != 0).any(1, keepdim=True)


def is_labelled(target: Tensor) -> Tensor:
    """Mark labels that are not -100."""
    return target != -100


def is_present(target: Tensor) -> Tensor:
    """Mark entries that are not NaN."""
    return ~target.isnan()


def _count(target: Selector, valid: Valid, batch: Any) -> Tensor:
    return valid(select(target, batch)).sum()
