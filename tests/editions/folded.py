"""A network whose heads are folded, or added up as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum import fold

__all__ = ["D", "Net", "data"]

D = torch.float64


class Net(nn.Module):
    """A trunk, and heads that `forward` folds, or adds up as ever."""

    def __init__(self, heads: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 4), nn.Dropout(dropout), nn.Linear(4, 2)) for _ in range(heads)
        )
        self.to(D)

    def forward(self, x: Tensor, y: Tensor, call: Callable[..., Any] = fold) -> Tensor:
        z = self.trunk(x)
        return sum(call(lambda z, head=head: F.mse_loss(head(z), y), z) for head in self.heads)


def data(samples: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(samples, 3, dtype=D), torch.randn(samples, 2, dtype=D)
