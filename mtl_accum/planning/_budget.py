"""Memory budget of a step: from a size, a share or "auto" to bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtl_accum._validate import SIZE, UNITS
from mtl_accum.memory import host_memory

__all__ = ["Budget", "in_bytes"]

_RESERVE = 0.1  # share of the free memory: for fragmentation, kernels' workspaces and code that is loaded later
_LEAST_RESERVE = 256 << 20


@dataclass(frozen=True)
class Budget:
    """Limit for the peak of a step's live tensors.

    Attributes:
        size: Limit in bytes.
        words: Derivation of the limit, for reports.
    """

    size: int
    words: str


def in_bytes(budget: int | str, device: torch.device, *, held: int = 0) -> Budget:
    """Return a budget in bytes.

    A size counts the tensors of the step alone. A share is relative to the device's total memory. "auto" is the free
    memory plus what this process's tensors occupy already, less a reserve of a tenth, and of at least 256 MiB, for
    fragmentation, workspaces and code. The CUDA context is not part of the free memory.

    Args:
        budget: Number of bytes, or "6GiB", "6GB", "80%", "auto".
        device: Device of the step; its memory is read for a share and for "auto" only.
        held: Bytes of the step's tensors that are in host memory already; on a GPU they are in the allocator's figure.

    Raises:
        TypeError: `budget` is neither a number nor text.
        ValueError: `budget` is no size, share or "auto"; or it needs the memory of an absent device.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | str):
        raise TypeError(f"budget must be a number of bytes or text such as '6GiB', found {budget!r}")
    text = f"{budget}B" if isinstance(budget, int) else budget.strip()
    number = SIZE.fullmatch(text)
    if text == "auto":
        free = _memory(device, budget)[0] + (held if device.type == "cpu" else torch.cuda.memory_reserved(device))
        reserve = max(round(_RESERVE * free), _LEAST_RESERVE)
        words = f"auto: {_gib(free)} free, less a reserve of {_gib(reserve)} for fragmentation and workspaces"
        return Budget(max(free - reserve, 0), words)
    if number is None or not float(number[1]):
        raise ValueError(f"budget must be a size such as 6GiB or 6GB, a share such as 80%, or auto; found {budget!r}")
    value, unit = float(number[1]), number[2]
    if unit != "%":
        return Budget(round(value * UNITS[unit]), text)
    if value > 100:
        raise ValueError(f"budget must be at most 100% of the device's memory, found {budget!r}")
    total = _memory(device, budget)[1]
    return Budget(round(value / 100 * total), f"{text} of {_gib(total)}")


def _memory(device: torch.device, budget: object) -> tuple[int, int]:
    """Return the free and the total memory of a device, in bytes."""
    if device.type == "cpu":
        return host_memory()
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)
    raise ValueError(
        f"budget={budget}: needs the memory of {device}, which was not found here; give a size, e.g. budget=24GiB"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
