"""A trunk with a side effect, and its gradients under an edition."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtl_accum import Edition, Task


class Net(nn.Module):
    """A trunk of blocks, so that activation checkpointing finds them, with something on the way."""

    def __init__(self, effect: Callable[..., Any] = lambda net, x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6).double(), nn.Linear(6, 6).double()
        self.effect = effect

    def forward(self, batch: dict[str, Tensor]) -> Tensor | None:
        return self.last(torch.tanh(self.first(self.effect(self, batch["x"]))))


def setting(
    effect: Callable[..., Any] = lambda net, x: x, tasks: int = 2
) -> tuple[Net, dict[str, Any], dict[str, Tensor]]:
    net = Net(effect)
    heads = {f"t{i}": Task(nn.Linear(6, 1).double(), nn.MSELoss(), "y") for i in range(tasks)}
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (4, 1))
    return net, heads, {"x": x, "y": y}


def gradients(
    edition: Edition,
    net: Callable[..., Any] | Net,
    tasks: dict[str, Callable[..., Any]],
    batch: dict[str, Tensor],
    seed: int = 3,
) -> dict[str, Tensor]:
    net.zero_grad()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    edition.forward_backward(net, tasks, batch)
    return {name: parameter.grad for name, parameter in net.named_parameters()}  # type: ignore[misc]


def lambda_of(net: Net) -> Callable[..., Any]:
    class Around:
        def __call__(self, batch: dict[str, Tensor]) -> Tensor:
            return net(batch)

        def zero_grad(self) -> None:
            net.zero_grad()

        def named_parameters(self) -> Any:
            return net.named_parameters()

    return Around()
