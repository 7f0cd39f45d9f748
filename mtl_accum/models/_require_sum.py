"""Check that a function of chunks is a sum over the rows: means of chunks would add up to too large a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mtl_accum._state import preserved
from mtl_accum.editions import modules_of
from mtl_accum.editions._engine import is_distributed, named_modules_of, uses_batch_statistics

__all__ = ["require_sum"]

_ROWS, _PIECES = 64, 8
_ROUNDING = 0.05  # relative: above the rounding of 16 bit, and below the error of a mean

# By the code of a function, which a lambda in a loop keeps: the ids of the values in its closure when it was checked.
_SEEN: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()


def require_sum(who: str, function: Callable[..., Tensor], inputs: Sequence[Tensor], dim: int, *, most: int) -> None:
    """Check that a function is a sum over the rows; each function is checked once.

    The function runs on some rows at once and on pieces of these, without gradients. Buffers and random numbers are
    restored.

    Args:
        who: Name of the caller for messages.
        function: Function from slices of the inputs to a 0-dim loss.
        inputs: Whole tensors.
        dim: Dimension along which they are cut.
        most: Number of rows that may be in memory at once.

    Raises:
        ValueError: The function is not a sum over the rows, or a module in it uses batch statistics.
    """
    code, closure = getattr(function, "__code__", function), _closure(function)
    with suppress(TypeError):  # the code is not hashable
        if _SEEN.get(code) == closure:
            return
    if any(x.is_meta or isinstance(x, FakeTensor) for x in inputs):
        return
    _refuse_batch_statistics(who, function)
    rows = _some_rows(inputs, dim, max(2, min(most, _ROWS)))
    whole, again, *parts = _values(function, [rows, rows, *_pieces(rows, dim)])
    if not _adds_up(whole, parts, random=whole != again):
        raise ValueError(
            f"{who}: expected a sum over the rows of dimension {dim}, found {whole:.4g} for some rows and "
            f"{' + '.join(f'{part:.4g}' for part in parts)} for pieces of them; use reduction='sum' and divide the "
            "result of chunked by the count. A loss that couples rows, or adds a constant, cannot be chunked"
        )
    conclusive = whole != 0 and math.isfinite(whole)
    if conclusive or is_distributed():  # several ranks must call a sharded head equally often
        with suppress(TypeError):
            _SEEN[code] = closure


def _adds_up(whole: float, parts: Sequence[float], *, random: bool) -> bool:
    """Return whether the value for some rows may be the sum of the values for pieces of them.

    With random numbers the two differ; a mean is smaller than the sum by a factor of `len(parts)`.
    """
    total, size = sum(parts), sum(map(abs, parts))
    if not math.isfinite(whole) or not whole:
        return True  # a different problem, or no row has a term
    if not random or not math.isfinite(total):  # a mean over nothing is NaN
        return abs(whole - total) <= _ROUNDING * size
    return abs(total) < size / 2 or abs(whole) > abs(total) / math.sqrt(len(parts))


def _values(function: Callable[..., Tensor], calls: Sequence[Sequence[Tensor]]) -> list[float]:
    try:
        with preserved(modules_of(function)), torch.no_grad(), torch.compiler.set_stance("force_eager"):  # few rows
            values = torch.stack([torch.as_tensor(function(*rows)).double().sum() for rows in calls])
    finally:
        torch.clear_autocast_cache()  # weights that were cast without a graph
    return [float(value) for value in values.tolist()]


def _some_rows(inputs: Sequence[Tensor], dim: int, number: int) -> list[Tensor]:
    """Return rows spread over the inputs: labels may be missing at either end."""
    length = inputs[0].shape[dim]
    index = torch.arange(min(number, length), device=inputs[0].device) * length // min(number, length)
    return [x.detach().index_select(dim, index) for x in inputs]


def _pieces(rows: Sequence[Tensor], dim: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(x.chunk(_PIECES, dim) for x in rows), strict=True))


def _closure(function: Any) -> tuple[int, ...]:
    """Return the ids of the values that a function refers to, without tensors, which are new in every step."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = (*cells, *(getattr(function, "__defaults__", None) or ()), getattr(function, "__self__", None))
    return tuple(id(value) for value in held if not isinstance(value, Tensor))


def _refuse_batch_statistics(who: str, function: Callable[..., Tensor]) -> None:
    for path, module in named_modules_of(function):
        if uses_batch_statistics(module):
            raise ValueError(
                f"{who}: {path} ({type(module).__name__}) uses batch statistics, which differ in chunks; convert it "
                "with mtl_accum.to_group_norm(module), put it in eval mode, or use fold"
            )
