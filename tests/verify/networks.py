"""The network that is checked: two tasks on a trunk around something odd, and a batch."""

from __future__ import annotations

import torch
from torch import nn

from mtl_accum import Task

N = 7


def batch(samples=N):
    torch.manual_seed(1)
    return {
        "x": torch.rand(samples, 8) * 255,
        "y": torch.randn(samples, 8),
        "z": torch.randn(samples, 8),
        "mask": torch.rand(samples, 8) > 0.5,
    }


def tasks(loss=None):
    torch.manual_seed(2)
    return {
        "y": Task(nn.Linear(8, 8), loss or nn.MSELoss(), "y", count=None if loss is None else len_of),
        "z": Task(nn.Linear(8, 8), nn.MSELoss(), "z"),
    }


def len_of(b):
    return len(b["x"])


class Trunk(nn.Module):
    """Two linear layers around something odd, on inputs of about 1."""

    def __init__(self, odd=None, key="x"):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.odd, self.last = nn.Linear(8, 8), odd or nn.Identity(), nn.Linear(8, 8)

    def forward(self, b):
        return self.last(self.odd(torch.tanh(self.first(b["x"] / 255))))
