"""Operators that refuse tensors without data although the shape of their result is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["KNOWN_SHAPES"]


def _grouped_mm(func: Any, *matrices: Any, **options: Any) -> Tensor:
    """Return the product of groups of rows; torch's fake operator takes bfloat16 only, its kernels float32 and float16.

    Args:
        func: The operator.
        matrices: Two matrices, and the other positional arguments.
        options: Keyword arguments.
    """
    first, second, *others = matrices
    if first.dtype not in (torch.float32, torch.float16) or first.dtype is not second.dtype:
        return func(first, second, *others, **options)  # type: ignore[no-any-return]
    if options.get("out_dtype") is first.dtype:
        options = {**options, "out_dtype": None}
    out = func(_in_bfloat16(first), _in_bfloat16(second), *others, **options)
    product: Tensor = first.new_empty(out.shape)
    return product


def _in_bfloat16(matrix: Tensor) -> Tensor:
    """Return a bfloat16 matrix of that shape with the same bytes between rows, whose alignment torch checks."""
    wider = matrix.element_size() // 2
    strides = [stride if stride == 1 else stride * wider for stride in matrix.stride()]
    return torch.empty_strided(matrix.shape, strides, dtype=torch.bfloat16, device=matrix.device)


def _bincount(func: Any, values: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Return the counts of values below `minlength`, e.g. rows per expert; without it the length depends on values."""
    if not minlength:
        return func(values, weights)  # type: ignore[no-any-return]
    if weights is None:
        return values.new_empty((minlength,), dtype=torch.int64)
    return weights.new_empty((minlength,), dtype=weights.dtype if weights.is_floating_point() else torch.float64)


KNOWN_SHAPES: dict[str, Callable[..., Any]] = {"_grouped_mm": _grouped_mm, "bincount": _bincount}
