"""The network that is checked: two tasks on a trunk around something odd, and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum import Task

N = 7


def batch(samples: int = N) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.rand(samples, 8) * 255,
        "y": torch.randn(samples, 8),
        "z": torch.randn(samples, 8),
        "mask": torch.rand(samples, 8) > 0.5,
    }


def tasks(loss: Callable[..., Any] | None = None) -> dict[str, Task]:
    torch.manual_seed(2)
    return {
        "y": Task(nn.Linear(8, 8), loss or nn.MSELoss(), "y", count=None if loss is None else len_of),
        "z": Task(nn.Linear(8, 8), nn.MSELoss(), "z"),
    }


def len_of(b: dict[str, Tensor]) -> int:
    return len(b["x"])


class Trunk(nn.Module):
    """Two linear layers around something odd, on inputs of about 1."""

    def __init__(self, odd: nn.Module | None = None, key: str = "x") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.odd, self.last = nn.Linear(8, 8), odd or nn.Identity(), nn.Linear(8, 8)

    def forward(self, b: dict[str, Tensor]) -> Tensor:
        return self.last(self.odd(torch.tanh(self.first(b["x"] / 255))))


def before_batch_norm() -> tuple[Callable[..., Any], dict[str, Any], Tensor]:
    """A bias whose true gradient is 0, in closures: there is no float64 to decide by."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    heads = [nn.Conv2d(8, 2, 1) for _ in range(3)]
    losses = {f"t{i}": lambda z, b, i=i: (100 * (heads[i](z) - 1)).pow(2).mean() for i in range(3)}
    return lambda b: trunk(b), losses, torch.rand(4, 3, 12, 12)
