"""Networks and gradients for the error of low precision, as against float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum.editions import Edition, SummedLoss
from mtl_accum.testing._workloads import Workload, vector

__all__ = ["flat_gradient", "float64_gradient", "under_autocast", "wide_weights"]


def wide_weights(seed: int, tasks: int = 8) -> Workload:
    """Build a float32 network without dropout, with weights of standard deviation 0.5.

    Args:
        seed: Seed of the weights.
        tasks: Number of heads.
    """
    load = vector(torch.float32, tasks, dropout=0.0, trunk_dropout=0.0)
    torch.manual_seed(100 + seed)
    for parameter in load.modules.parameters():
        nn.init.normal_(parameter, std=0.5)
    return load


def under_autocast(load: Workload, dtype: torch.dtype) -> Workload:
    """Run the trunk and each task of a workload under autocast on the CPU.

    Args:
        load: Workload to wrap.
        dtype: 16-bit type of autocast.
    """

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with torch.autocast("cpu", dtype):
                return function(*args)

        return run

    tasks = {name: wrapped(task) for name, task in load.tasks.items()}
    return Workload(wrapped(load.trunk), tasks, load.batch, load.modules)


def flat_gradient(edition: Edition, load: Workload) -> Tensor:
    """Return the gradient of all parameters as one float64 vector.

    Args:
        edition: Edition that computes the gradient.
        load: Network, tasks and batch.
    """
    load.modules.zero_grad()
    edition.forward_backward(load.trunk, load.tasks, load.batch)
    return torch.cat([parameter.grad.double().flatten() for parameter in load.modules.parameters()])


def float64_gradient(load: Workload) -> Tensor:
    """Return the summed loss's gradient of a copy in float64: the reference for errors.

    Args:
        load: Workload of `wide_weights`.
    """
    heads = dict(copy.deepcopy(load.modules[1]).double().items())
    trunk = copy.deepcopy(load.modules[0]).double()
    modules = nn.ModuleList([trunk, nn.ModuleDict(heads)])
    batch = {name: tensor.double() for name, tensor in load.batch.items()}
    return flat_gradient(SummedLoss(), Workload(lambda b: trunk(b["x"]), heads, batch, modules))
