"""Situations with running state: BatchNorm, spectral norm, buffers that the forward reads and replaces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl_accum.testing._workloads import Workload
from mtl_accum.testing.situations._situation import HEADS, TRUNK, checkpointed, plain, rewrapped, situation


@situation("BatchNorm in the trunk", "buffers", statistics=TRUNK)
def _(dtype: torch.dtype) -> Workload:
    return plain(dtype, norm=nn.BatchNorm1d(9))


@situation("BatchNorm, cumulative average", "buffers", statistics=TRUNK)
def _(dtype: torch.dtype) -> Workload:
    return plain(dtype, norm=nn.BatchNorm1d(9, momentum=None))


@situation("BatchNorm in eval mode", "buffers")
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype, norm=nn.BatchNorm1d(9))
    load.modules.eval()
    return load


@situation("BatchNorm in a head", "buffers", statistics=HEADS)
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype, 2)
    norm = nn.BatchNorm1d(8).to(dtype)
    load.modules.append(norm)
    return rewrapped(load, normed=lambda z, b: norm(z).pow(3).mean())


@situation("BatchNorm, checkpointed", "buffers", statistics=TRUNK)
def _(dtype: torch.dtype) -> Workload:
    return checkpointed(plain(dtype, norm=nn.BatchNorm1d(9)))


class Drifting(nn.Module):
    """Running state that matters for the forward, replaced by a new tensor in every call."""

    scale: Tensor
    calls: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=dtype))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the input, then decay the scale."""
        y = x * self.scale
        self.scale = 0.9 * self.scale
        self.calls += 1
        return y


@situation("running state that the forward reads", "buffers", random=True)  # pieces see it drift
def _(dtype: torch.dtype) -> Workload:
    return plain(dtype, norm=Drifting(dtype))


@situation("running state, checkpointed", "buffers", random=True)
def _(dtype: torch.dtype) -> Workload:
    return checkpointed(plain(dtype, norm=nn.Sequential(nn.Tanh(), Drifting(dtype))))


@situation("spectral norm", "buffers", random=True, statistics=TRUNK)  # a power iteration a call
def _(dtype: torch.dtype) -> Workload:
    load = plain(dtype)
    load.modules[0][0] = nn.utils.parametrizations.spectral_norm(load.modules[0][0])
    return load
