"""How much memory a step may take: what a person writes, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtl_accum._validate import SIZE, UNITS
from mtl_accum.memory import host_memory

__all__ = ["Budget", "in_bytes"]

_RESERVE = 0.1  # of what is free: for the allocator's fragmentation, kernels' workspaces and lazily loaded code
_LEAST_RESERVE = 256 << 20


@dataclass(frozen=True)
class Budget:
    """What the live tensors of a step may take at the peak.

    Attributes:
        size: in bytes.
        words: how it came about, for the report.
    """

    size: int
    words: str


def in_bytes(budget: int | str, device: torch.device, *, held: int = 0) -> Budget:
    """A budget in bytes.

    A size counts the tensors of the step alone. A share is one of the device's memory. "auto" is what is free there
    now, with what this process's tensors take already, less a reserve of a tenth (256 MiB at least) for the
    allocator's fragmentation, workspaces and code; the CUDA context is taken before.

    Args:
        budget: bytes; or "6GiB", "6GB", "80%", "auto".
        device: where the step will run; asked for its memory by shares and "auto" only.
        held: bytes of the step's tensors that are on a CPU already; a GPU's allocator knows them itself.

    Raises:
        TypeError: budget is neither a number nor text.
        ValueError: it is nothing of the above; or it needs a device that is not here.
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
    """Free and total memory of a device, in bytes."""
    if device.type == "cpu":
        return host_memory()
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)
    raise ValueError(f"budget={budget}: found no {device} here to ask for its memory; give a size, e.g. budget=24GiB")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
