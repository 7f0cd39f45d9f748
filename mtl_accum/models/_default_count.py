"""The number of samples that a target stands for, where no count was given."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtl_accum.editions import PerSample
from mtl_accum.editions._engine import leaves as tree_leaves
from mtl_accum.editions._engine.batch._cutting import samples_of

__all__ = ["default_count"]

_LISTS = (list, tuple, PerSample)


def default_count(target: Any, batch: Any) -> int:
    """Return the number of samples behind a target: never the size of one of them.

    Args:
        target: Of a tensor, or a nesting of tensors with equally many rows, the rows count. Of a list with an entry
            for each of the batch's samples (detection), its entries. Of anything else, the batch's samples.
        batch: Read only where the target itself does not tell.

    Raises:
        ValueError: It takes the batch's samples to tell, and those cannot be told either.
    """
    if isinstance(target, Tensor) and target.dim():
        return target.shape[0]
    tensors = [leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]
    rows = {leaf.shape[:1] for leaf in tensors}
    same = next(iter(rows))[0] if len(rows) == 1 and all(rows) else None
    if same is not None and type(target) not in _LISTS:
        return same
    try:
        samples = samples_of(batch, "batch")
    except (TypeError, ValueError) as error:
        if same is not None and len(target) == same:
            return same  # both readings of the list agree
        raise ValueError(
            f"the target is a {type(target).__name__} that does not tell the number of samples, nor does the batch "
            f"({error}); give count=, the denominator of the loss's mean"
        ) from error
    entries = type(target) in _LISTS and len(target) == samples
    return same if same is not None and not entries else samples
