"""Situations with other tools around the network: checkpointing, offloading, compilation, adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtl_accum.testing._workloads import Workload, vector
from mtl_accum.testing.situations._situation import TRUNK, checkpointed, plain, rewrapped, situation


@situation("checkpointed trunk and heads", "composition")
def _(dtype: torch.dtype) -> Workload:
    return checkpointed(plain(dtype))


@situation("saved tensors on the CPU", "composition")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype)
    trunk = load.trunk

    def offloaded(batch: Any) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return trunk(batch)

    return rewrapped(load, offloaded)


@situation("compiled trunk and heads", "composition", random=True)
def _(dtype: torch.dtype) -> Workload:
    load = vector(dtype, 2, dropout=0.0, trunk_dropout=0.0)
    torch._dynamo.reset()  # or it stops compiling after a number of cells
    trunk: Any = torch.compile(load.modules[0], backend="eager")
    tasks = {name: torch.compile(task, backend="eager") for name, task in load.tasks.items()}
    return Workload(lambda b: trunk(b["x"]), tasks, load.batch, load.modules)


@situation("compiled trunk with BatchNorm", "composition", statistics=TRUNK)
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype, norm=nn.BatchNorm1d(9))
    torch._dynamo.reset()
    trunk: Any = torch.compile(load.modules[0], backend="eager")
    return rewrapped(load, lambda b: trunk(b["x"]))


@situation("adapters on frozen layers (LoRA)", "composition")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype)
    load.modules.requires_grad_(False)
    down, up = nn.Linear(6, 2, bias=False).to(dtype), nn.Linear(2, 8, bias=False).to(dtype)
    load.modules.extend([down, up])
    trunk = load.trunk
    return rewrapped(load, lambda b: trunk(b) + up(down(b["x"])))
