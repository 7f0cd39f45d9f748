"""Small models for the tests of `WithLoss`, and weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.models import UncertaintyWeight, WithLoss

ABSENT = "absent"


class Scaled(nn.Module):
    """A trunk with a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor | float:
        return torch.tanh(self.linear(x)) * self.scale


class Of(nn.Module):
    """A weight that is a function of a parameter and the loss."""

    def __init__(self, function: Callable[..., Any], start: float = 0.7) -> None:
        super().__init__()
        self.function, self.log = function, nn.Parameter(torch.tensor([start]))

    def forward(self, loss: Tensor) -> Tensor | float:
        return self.function(self.log, loss)


def model(dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = {
        "a.b": Task(nn.Linear(4, 3), nn.CrossEntropyLoss(), "y", UncertaintyWeight(0.3)),
        "depth": Task(nn.Linear(4, 2), nn.MSELoss(), "depth", 0.5),
        ABSENT: Task(nn.Linear(4, 2), nn.MSELoss(), "nowhere"),
    }
    return MultiTaskModel(Scaled(), tasks, "x").to(dtype)


def batch(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    y = torch.tensor([0, -100, 2, 1, -100, -100, 0])
    return {"x": torch.randn(7, 3, dtype=dtype), "y": y, "depth": torch.randn(7, 2, dtype=dtype)}


def gradients(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def expected_gradients() -> dict[str, torch.Tensor | None]:
    net = model()
    SummedLoss().forward_backward(net.trunk, net.tasks, batch())
    return gradients(net)


class Public(nn.Module):
    """Model of a user: no trunk, no tasks, its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.classifier = nn.Linear(3, 4), nn.Linear(4, 2)

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.dropout(torch.tanh(self.encoder(batch["x"])), 0.5, self.training)

    def forward(self, x: Tensor) -> None:
        raise AssertionError("it does not run")


def mean_square(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return z.square().mean()


def given_tasks(net: Public) -> WithLoss:
    shared = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4))
    head = nn.Sequential(nn.Dropout(0.0), net.classifier)
    tasks = {
        "class": Task(head, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0])), "labels", UncertaintyWeight(0.3)),
        "a.b": Task(
            nn.Sequential(shared, net.classifier), nn.CrossEntropyLoss(), "labels", nn.Parameter(torch.ones(1))
        ),
        "new": Task(nn.Sequential(shared, nn.Linear(4, 2)), nn.CrossEntropyLoss(), "labels"),
        "same": Task(net.classifier, nn.CrossEntropyLoss(), "labels"),
        "function": mean_square,
    }
    return WithLoss(net, Split(), trunk=net.encode, tasks=tasks)
