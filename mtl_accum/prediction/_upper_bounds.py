"""Upper bounds for results whose size depends on values: masks that are true everywhere, values that all differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["UPPER_BOUNDS"]

_MASKS = (torch.bool, torch.uint8)


def _nonzero(func: Any, tensor: Tensor) -> Tensor:
    """Return the largest result of `torch.nonzero`, `torch.where(mask)` or `torch.argwhere`."""
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


def _index(func: Any, tensor: Tensor, indices: list[Tensor | None]) -> Any:
    """Return the largest result of `x[mask]`: each mask is replaced by the indices of all its elements."""
    if not any(index is not None and index.dtype in _MASKS for index in indices):
        return NotImplemented
    all_indices: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in _MASKS:
            all_indices += [index.new_empty((index.numel(),), dtype=torch.int64) for _ in range(index.dim())]
        else:
            all_indices.append(index)
    return func(tensor, all_indices)


def _masked_select(func: Any, tensor: Tensor, mask: Tensor) -> Tensor:
    """Return the largest result of `torch.masked_select`."""
    return tensor.new_empty((torch.broadcast_shapes(tensor.shape, mask.shape).numel(),))


def _unique(func: Any, tensor: Tensor, *flags: bool, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest values, the index of each element among them, and the counts, wanted or not."""
    return (
        tensor.new_empty((tensor.numel(),)),
        tensor.new_empty(tensor.shape, dtype=torch.int64),
        tensor.new_empty((tensor.numel(),), dtype=torch.int64),
    )


def _unique_dim(func: Any, tensor: Tensor, dim: int, *flags: bool, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest rows, the index of each row among them, and the counts."""
    rows = tensor.shape[dim]
    inverse, counts = (tensor.new_empty((rows,), dtype=torch.int64) for _ in range(2))
    return torch.empty_like(tensor), inverse, counts


UPPER_BOUNDS: dict[str, Callable[..., Any]] = {
    "nonzero": _nonzero,
    "index": _index,
    "masked_select": _masked_select,
    "_unique2": _unique,
    "unique_consecutive": _unique,
    "unique_dim": _unique_dim,
}
