"""Means over what a target really has: holes of a depth map, unlabelled tokens and missing scores left out."""

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

Valid = Callable[[Tensor], Tensor]  # target -> which of its entries count, a bool tensor
Error = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> values, in the shape of that mask


class MaskedLoss(nn.Module):
    """The mean of an error over the valid entries of the target; pass `count_valid` to the task.

    Args:
        error: maps output and target to values.
        valid: maps the target to a mask of the values' shape. Invalid entries of the target reach the error as 0.
    """

    def __init__(self, error: Error, valid: Valid) -> None:
        super().__init__()
        require_callables(error=error, valid=valid)
        self._error, self._valid = error, valid

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """A 0-dim loss; NaN where nothing is valid."""
        total, count = masked_sum(self._error, self._valid, output, target)
        return total / count


class TokenCrossEntropy(nn.Module):
    """Mean cross-entropy of tokens: logits (N, L, classes), labels (N, L) with -100 where there is none."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A 0-dim loss; NaN where no token has a label."""
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def masked_sum(error: Error, valid: Valid, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of an error over the valid entries, and their number."""
    mask = valid(target)
    known = torch.where(mask, target, torch.zeros_like(target))  # a NaN would reach the gradient through the mask
    return (error(output, known) * mask).sum(), mask.sum()


def count_valid(target: Selector, valid: Valid) -> Callable[[Any], Tensor]:
    """Count of a `MaskedLoss`: the valid entries.

    Args:
        target: key of the batch, or callable of it.
        valid: as the loss has it.
    """
    return partial(_count, target, valid)


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """|output - target|, entry by entry."""
    return (output - target).abs()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """(output - target) ** 2, entry by entry."""
    return (output - target).square()


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of the angle between vectors in dimension 1: (N, C, ...) -> (N, 1, ...), from 0 to 2."""
    return 1 - F.cosine_similarity(output, target, dim=1).unsqueeze(1)


def angle(output: Tensor, target: Tensor) -> Tensor:
    """The angle between vectors in dimension 1, in degrees: (N, C, ...) -> (N, 1, ...); a measure, not a loss."""
    return torch.acos((1 - cosine_distance(output, target)).clamp(-1, 1)) * (180 / math.pi)


def hit(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the class with the largest logit is the label, else 0: (..., classes), (...) -> (...); a measure."""
    return (logits.argmax(-1) == labels).float()


def is_positive(target: Tensor) -> Tensor:
    """Entries above 0, as measured depths are; sensors write 0 where they saw nothing."""
    return target > 0


def has_direction(target: Tensor) -> Tensor:
    """Vectors in dimension 1 that are not 0: (N, C, ...) -> (N, 1, ...)."""
    return (target != 0).any(1, keepdim=True)


def is_labelled(target: Tensor) -> Tensor:
    """Labels that are not -100."""
    return target != -100


def is_present(target: Tensor) -> Tensor:
    """Entries that are not NaN."""
    return ~target.isnan()


def _count(target: Selector, valid: Valid, batch: Any) -> Tensor:
    return valid(select(target, batch)).sum()
