"""Default count of a task: the number of samples behind its target."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtl_accum.editions import PerSample
from mtl_accum.editions._engine import leaves as tree_leaves
from mtl_accum.editions._engine.batch._cutting import samples_of

__all__ = ["default_count"]

_LISTS = (list, tuple, PerSample)


def default_count(target: Any, batch: Any) -> int:
    """Return the number of samples behind a target, never the size of a single sample.

    Args:
        target: Target of the task. The result is the number of rows of a tensor or of a nesting of tensors with equally
            many rows, the number of entries of a list with one entry per sample of the batch (detection), and the
            number of samples in the batch for anything else.
        batch: Batch; read only if the target alone does not determine the result.

    Raises:
        ValueError: Neither the target nor the batch determines the number of samples.
    """
    if isinstance(target, Tensor) and target.dim():
        return target.shape[0]
    tensors = [leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]
    rows = {leaf.shape[:1] for leaf in tensors}
    common = next(iter(rows))[0] if len(rows) == 1 and all(rows) else None
    if common is not None and type(target) not in _LISTS:
        return common
    try:
        samples = samples_of(batch, "batch")
    except (TypeError, ValueError) as error:
        if common is not None and len(target) == common:
            return common  # rows and entries of the list agree
        raise ValueError(
            f"the target is a {type(target).__name__} that does not determine the number of samples, nor does the "
            f"batch ({error}); give count=, the denominator of the loss's mean"
        ) from error
    one_entry_per_sample = type(target) in _LISTS and len(target) == samples
    return samples if common is None or one_entry_per_sample else common
