"""A network to plan for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Task, plan


def network(
    norm: Any = nn.GroupNorm, samples: int = 24, tasks: int = 3, width: int = 16
) -> tuple[MultiTaskModel, dict[str, Tensor], torch.optim.Optimizer]:
    """A convolutional trunk with dropout, dense heads."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(2):
        statistics = nn.BatchNorm2d(width) if norm is nn.BatchNorm2d else norm(2, width)
        layers += [nn.Conv2d(width, width, 3, padding=1), statistics, nn.ReLU(), nn.Dropout2d(0.1)]
    heads = {
        f"t{n}": Task(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 1)), nn.MSELoss(), "y"
        )
        for n in range(tasks)
    }
    model = MultiTaskModel(nn.Sequential(*layers), heads, "x")
    batch = {"x": torch.randn(samples, 3, 20, 20), "y": torch.randn(samples, 1, 20, 20)}
    return model, batch, torch.optim.AdamW(model.parameters())


def planned(model: Any, batch: Any, optimizer: Any, budget: Any, **changes: Any) -> Any:
    return plan(model.trunk, model.tasks, batch, optimizer=optimizer, budget=budget, **changes)
