"""Situations of losses that read more than the representation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.exactness.situations._network import (
    EVERY,
    Layers,
    Network,
    Situation,
    heads,
    network,
    vectors,
)
from mtl_accum import Task


def log_variances() -> Network:
    net = network(Layers(), heads("a", "b"), vectors("a", "b"))
    logs = {name: torch.zeros((), dtype=torch.float64, requires_grad=True) for name in net.tasks}

    def weighted(name: str, task: Any) -> Callable[[Any, Any], Tensor]:
        return lambda z, batch: torch.exp(-logs[name]) * task(z, batch) + logs[name]

    net.tasks = {name: weighted(name, task) for name, task in net.tasks.items()}
    net.leaves = logs
    return net


class Weighted(nn.Module):
    """A user's wrapper around a `Task`: uncertainty weighting (Kendall, Gal and Cipolla, 2018)."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.log = task, nn.Parameter(torch.zeros(()))

    def forward(self, z: Any, batch: Any) -> Tensor:
        loss: Tensor = self.task(z, batch)
        return torch.exp(-self.log) * loss + self.log


def wrapped() -> Network:
    tasks = {name: Weighted(task) for name, task in heads("a", "rare").items()}
    labels = torch.tensor([0, -100, -100, 2, 1, -100, 0])
    tasks["y"] = Weighted(Task(nn.Linear(5, 3), nn.CrossEntropyLoss(), "y"))
    net = network(Layers(), tasks, vectors("a") | {"y": labels})

    def plain() -> None:
        z = net.trunk(net.batch)
        total: Tensor = net.tasks["a"](z, net.batch) + net.tasks["y"](z, net.batch)  # "rare" is not in the batch
        total.backward()

    net.plain = plain
    return net


def input_gradient() -> Network:
    batch = vectors("a")
    net = network(Layers(), heads("a"), batch)
    batch["x"].requires_grad_()
    net.leaves = {"x": batch["x"]}
    return net


def physics() -> Network:
    """Build a loss on the derivative with respect to the input (Raissi, Perdikaris and Karniadakis, 2019)."""
    network = input_gradient()
    head = network.tasks["a"].head

    def residual(z: Tensor, batch: Any) -> Tensor:
        u = head(z)
        (slope,) = torch.autograd.grad(u.sum(), batch["x"], create_graph=True)
        loss: Tensor = (slope.sum(1, keepdim=True) - u).square().mean()
        return loss

    network.tasks = {"residual": residual}
    return network


class Float32Head(nn.Module):
    """A head that disables autocast for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            output: Tensor = self.linear(z.float())
            return output


def autocast() -> Network:
    net = network(Layers(), {"a": Task(Float32Head(), nn.MSELoss(), "a")}, vectors("a"), autocast=True)
    net.modules.float()
    net.batch = {name: tensor.float() for name, tensor in net.batch.items()}
    return net


LOSSES: dict[str, Situation] = {
    "log-variances in a closure": Situation(log_variances, EVERY),
    "a module around a `Task`": Situation(wrapped, EVERY),
    "an input that requires a gradient": Situation(input_gradient, EVERY),
    "a loss on the input's derivative": Situation(physics, ("SummedLoss", "PerTask"), fix="`PerTask`"),
    "a head that switches autocast off": Situation(autocast, EVERY, by_pieces=True),
}
