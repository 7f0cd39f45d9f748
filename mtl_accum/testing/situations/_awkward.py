"""Situations with awkward models: frozen parts, shared parameters, unused outputs, coupled samples."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum.testing._workloads import Workload
from mtl_accum.testing.situations._situation import plain, rewrapped, situation


def frozen(dtype: torch.dtype, which: int) -> Workload:
    """Freeze the trunk (0) or the heads (1)."""
    load = plain(dtype)
    load.modules[which].requires_grad_(False)
    return load


situation("frozen trunk", "awkward models")(functools.partial(frozen, which=0))
situation("frozen heads", "awkward models")(functools.partial(frozen, which=1))


@situation("heads without parameters, reading the batch, reading z twice", "awkward models")
def _(dtype: torch.dtype) -> Workload:
    more: dict[str, Any] = {
        "norm": lambda z, b: z.square().mean(),
        "input": lambda z, b: (z[:, :6] * b["x"]).mean(),
        "twice": lambda z, b: (z * z.flip(1)).mean(),
        "no gradient": lambda z, b: z.detach().mean(),
    }
    return rewrapped(plain(dtype), **more)


@situation("parameters shared by heads", "awkward models")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype, 2)
    load.tasks["t1"].first = load.tasks["t0"].first
    return rewrapped(load, again=load.tasks["t0"])


@situation("parameter shared by trunk and head", "awkward models")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype)
    tied = load.modules[0][0]
    return rewrapped(load, tied=lambda z, b: F.mse_loss(z @ tied.weight[:8], b["x"]))


@situation("representation that no head uses", "awkward models")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype)
    trunk, spare = load.modules[0], nn.Linear(6, 2).to(dtype)
    load.modules.append(spare)
    tasks = {name: lambda z, b, task=task: task(z[0], b) for name, task in load.tasks.items()}
    return Workload(lambda b: (trunk(b["x"]), spare(b["x"])), tasks, load.batch, load.modules)


class Contrastive(nn.Module):
    """A contrastive loss over all pairs of samples."""

    couples_samples = True

    def forward(self, z: Tensor, batch: Any) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(z @ z.T, torch.arange(len(z)))


@situation("contrastive loss", "awkward models", coupled=True)
def _(dtype: torch.dtype) -> Workload:
    return rewrapped(plain(dtype), contrastive=Contrastive())
