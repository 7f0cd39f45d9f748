"""Ready-made functions for `Task(count=...)`: the number of terms in the mean of a loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtl_accum.models._loss_reduction import count_terms
from mtl_accum.models._multi_task import Selector, select

__all__ = ["count_labels", "count_mask", "count_present"]


def count_labels(
    target: Selector, *, ignore_index: int = -100, weight: Tensor | None = None
) -> Callable[[Any], Tensor]:
    """Make the count of a cross-entropy: the labels that are not ignored, or the sum of their class weights.

    Args:
        target: Key of the batch, or callable of it, for int64 class labels of any shape.
        ignore_index: Label that the loss leaves out.
        weight: Class weights of the loss, shape (classes,).

    Returns:
        Function of the batch that returns a 0-dim tensor, for `Task(count=...)`.
    """
    return partial(_labels, target, ignore_index, weight)


def count_mask(mask: Selector) -> Callable[[Any], Tensor]:
    """Make the count of a masked mean: the true entries of a mask, or the sum of its weights.

    Args:
        mask: Key of the batch, or callable of it, for a tensor of bool, int or float, of any shape.

    Returns:
        Function of the batch that returns a 0-dim tensor, for `Task(count=...)`.
    """
    return partial(_mask, mask)


def count_present(target: Selector) -> Callable[[Any], Tensor]:
    """Make the count of a regression with missing labels: the entries that are not NaN.

    Args:
        target: Key of the batch, or callable of it, for a floating-point tensor of any shape.

    Returns:
        Function of the batch that returns a 0-dim tensor, for `Task(count=...)`.
    """
    return partial(_present, target)


# Top-level functions, since closures cannot be pickled for fresh processes.


def _labels(target: Selector, ignore_index: int, weight: Tensor | None, batch: Any) -> Tensor:
    return torch.as_tensor(count_terms(select(target, batch), ignore_index=ignore_index, weight=weight))


def _mask(mask: Selector, batch: Any) -> Tensor:
    values: Tensor = select(mask, batch)
    return values.sum()


def _present(target: Selector, batch: Any) -> Tensor:
    values: Tensor = select(target, batch)
    return (~values.isnan()).sum()
