"""Comparison of gradients across ranks, for the first steps of a training under DistributedDataParallel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine.ranks._agreement import checksum, count_ranks, gather_row

__all__ = ["require_equal_gradients"]

_ROUNDING = 1e-6  # relative to the norm; ranks of several kinds of GPU may add up in another order


def require_equal_gradients(parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], group: Any = None) -> None:
    """Raise unless every rank has the same gradients, as it must after a backward that averages them.

    Call it on every rank between backward and `optimizer.step()`, in the first steps of a training. It detects ranks
    that were never averaged (parts called past DDP), and parameters that DDP left out (`static_graph=True` where other
    tasks are absent on all ranks than in the first step). Inside `no_sync` gradients rightly differ.

    One collective: presence, norm and sum of each gradient. Nothing is compared where there is one process.

    Args:
        parameters: Parameters by name, e.g. `model.named_parameters()`.
        group: Process group; the default group for None.

    Raises:
        TypeError: parameters has no names, or a gradient is sharded (FSDP2: every rank has another shard).
        ValueError: On every rank together; gradients differ, by the parameter's name, or ranks have other parameters.
    """
    named = dict(_require_named(parameters))
    if count_ranks(group) == 1:
        return
    summaries = [_summary(name, parameter.grad) for name, parameter in named.items()]
    row = [float(len(named)), checksum(named), *(number for summary in summaries for number in summary)]
    table = gather_row(row, group)
    if any(other[:2] != table[0][:2] for other in table):
        raise ValueError(
            f"parameters: ranks have other parameters, or another order of them; {len(named)} on this rank"
        )
    different = [
        (name, [other[start : start + 3] for other in table])
        for start, (name, parameter) in zip(range(2, len(row), 3), named.items(), strict=True)
        if any(_apart(table[0][start : start + 3], other[start : start + 3], parameter.numel()) for other in table)
    ]
    if different:
        name, values = different[0]
        raise ValueError(
            f"gradients differ across ranks: '{name}' has {_listed(values)}{_more(len(different) - 1)}. Average them: "
            "one DistributedDataParallel around the module whose forward returns the loss, and called in its place; "
            "where tasks can be absent on all ranks find_unused_parameters=True, without static_graph"
        )


def _require_named(parameters: Any) -> Iterable[tuple[str, Tensor]]:
    pairs = parameters.items() if isinstance(parameters, Mapping) else list(parameters)
    if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor) for pair in pairs):
        raise TypeError("parameters must have names, found other values; pass model.named_parameters()")
    return pairs


def _summary(name: str, gradient: Tensor | None) -> tuple[float, float, float]:
    """Return whether there is a gradient, its norm and its sum."""
    if gradient is None:
        return 0.0, 0.0, 0.0
    if hasattr(gradient, "full_tensor"):
        raise TypeError(
            f"parameters: the gradient of '{name}' is a {type(gradient).__name__}, of which every rank has another "
            "shard; compare gradients under DistributedDataParallel, where they are whole"
        )
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    values = torch.view_as_real(values) if values.is_complex() else values
    norm = torch.linalg.vector_norm(values, dtype=torch.float64)
    return 1.0, float(norm), float(values.sum(dtype=torch.float64))


def _apart(mine: list[float], other: list[float], numbers: int) -> bool:
    (present, norm, total), (other_present, other_norm, other_total) = mine, other
    if present != other_present or not math.isfinite(norm + other_norm):
        return present != other_present or math.isfinite(norm) != math.isfinite(other_norm)
    bound = _ROUNDING * max(norm, other_norm)
    return abs(norm - other_norm) > bound or abs(total - other_total) > bound * math.sqrt(numbers)


def _listed(values: list[list[float]]) -> str:
    return ", ".join(
        f"norm {norm:.6g} and sum {total:.6g} on rank {rank}" if present else f"none on rank {rank}"
        for rank, (present, norm, total) in enumerate(values)
    )


def _more(count: int) -> str:
    return f", and {count} more differ" if count else ""
