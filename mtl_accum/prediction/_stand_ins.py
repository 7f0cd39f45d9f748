"""Operators that refuse tensors without data though the shape of their result is known: what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["STAND_INS"]


def _grouped_mm(func: Any, *matrices: Any, **others: Any) -> Tensor:
    """Multiply groups of rows; torch's own stand-in takes bfloat16 alone, the kernels take float32 and float16 too."""
    first, second, *rest = matrices
    if first.dtype not in (torch.float32, torch.float16) or first.dtype is not second.dtype:
        return func(first, second, *rest, **others)  # type: ignore[no-any-return]
    if others.get("out_dtype") is first.dtype:
        others = {**others, "out_dtype": None}
    out = func(_narrow(first), _narrow(second), *rest, **others)
    stored: Tensor = first.new_empty(out.shape)
    return stored


def _narrow(matrix: Tensor) -> Tensor:
    """A bfloat16 matrix of that shape whose rows lie as many bytes apart: torch checks their alignment."""
    wider = matrix.element_size() // 2
    strides = [stride if stride == 1 else stride * wider for stride in matrix.stride()]
    return torch.empty_strided(matrix.shape, strides, dtype=torch.bfloat16, device=matrix.device)


def _bincount(func: Any, values: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Count values below a length that is given: rows of each expert; without it the length is the largest value's."""
    if not minlength:
        return func(values, weights)  # type: ignore[no-any-return]
    if weights is None:
        return values.new_empty((minlength,), dtype=torch.int64)
    return weights.new_empty((minlength,), dtype=weights.dtype if weights.is_floating_point() else torch.float64)


STAND_INS: dict[str, Callable[..., Any]] = {"_grouped_mm": _grouped_mm, "bincount": _bincount}
