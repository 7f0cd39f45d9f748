"""Ready-made counts: how many terms the mean of a loss has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtl_accum.models._denominators import count_terms
from mtl_accum.models._multi_task import Selector, select

__all__ = ["count_labels", "count_mask", "count_present"]


def count_labels(
    target: Selector, *, ignore_index: int = -100, weight: Tensor | None = None
) -> Callable[[Any], Tensor]:
    """Count of a cross-entropy: the labels that are not ignored, or the sum of their classes' weights.

    Args:
        target: key of the batch, or callable of it, that gives int64 class labels of any shape.
        ignore_index: label that the loss leaves out.
        weight: the weights of the classes that the loss was given, shape (classes,).

    Returns:
        A function of the batch for `Task(count=...)`, which returns a 0-dim tensor.
    """
    return partial(_labels, target, ignore_index, weight)


def count_mask(mask: Selector) -> Callable[[Any], Tensor]:
    """Count of a masked mean: the entries of a mask that are true, or the sum of its weights.

    Args:
        mask: key of the batch, or callable of it, that gives a tensor of bool, int or float, of any shape.
    """
    return partial(_mask, mask)


def count_present(target: Selector) -> Callable[[Any], Tensor]:
    """Count of a regression with missing labels: the entries that are not NaN.

    Args:
        target: key of the batch, or callable of it, that gives a floating-point tensor of any shape.
    """
    return partial(_present, target)


# Functions at the top of a file, for fresh processes: closures do not pickle.


def _labels(target: Selector, ignore_index: int, weight: Tensor | None, batch: Any) -> Tensor:
    return torch.as_tensor(count_terms(select(target, batch), ignore_index=ignore_index, weight=weight))


def _mask(mask: Selector, batch: Any) -> Tensor:
    found: Tensor = select(mask, batch)
    return found.sum()


def _present(target: Selector, batch: Any) -> Tensor:
    found: Tensor = select(target, batch)
    return (~found.isnan()).sum()
