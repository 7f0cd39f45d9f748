"""Results whose size depends on values, as large as they can be: every mask true everywhere, all values different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["UPPER_BOUNDS"]

_MASKS = (torch.bool, torch.uint8)


def _nonzero(func: Any, tensor: Tensor) -> Tensor:
    """`torch.nonzero`, `torch.where(mask)`, `torch.argwhere`."""
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


def _index(func: Any, tensor: Tensor, indices: list[Tensor | None]) -> Any:
    """`x[mask]`: each mask becomes the indices of all its elements."""
    if not any(index is not None and index.dtype in _MASKS for index in indices):
        return NotImplemented
    full: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in _MASKS:
            full += [index.new_empty((index.numel(),), dtype=torch.int64) for _ in range(index.dim())]
        else:
            full.append(index)
    return func(tensor, full)


def _masked_select(func: Any, tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.new_empty((torch.broadcast_shapes(tensor.shape, mask.shape).numel(),))


def _unique(func: Any, tensor: Tensor, *settings: bool, **more: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Values, the place of each element among them, and counts; asked for or not."""
    return (
        tensor.new_empty((tensor.numel(),)),
        tensor.new_empty(tensor.shape, dtype=torch.int64),
        tensor.new_empty((tensor.numel(),), dtype=torch.int64),
    )


def _unique_dim(func: Any, tensor: Tensor, dim: int, *settings: bool, **more: Any) -> tuple[Tensor, Tensor, Tensor]:
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
