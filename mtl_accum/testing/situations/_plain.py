"""Situations with dropout, and with nothing special."""

from __future__ import annotations

import torch
from torch import nn

from mtl_accum.testing._workloads import Workload, images, nested, vector
from mtl_accum.testing.situations._situation import checkpointed, plain, situation


@situation("dropout in trunk and heads", "random numbers", random=True)
def _(dtype: torch.dtype) -> Workload:
    return vector(dtype, 4)


@situation("convolutions, dropout, weights", "random numbers", random=True)
def _(dtype: torch.dtype) -> Workload:
    return images(dtype)


@situation("dropout, checkpointed", "random numbers", random=True)
def _(dtype: torch.dtype) -> Workload:
    return checkpointed(vector(dtype))


@situation("no random numbers", "plain")
def _(dtype: torch.dtype) -> Workload:
    return plain(dtype)


@situation("one task", "plain")
def _(dtype: torch.dtype) -> Workload:
    return plain(dtype, 1)


@situation("representation: dict of tensors and integers", "plain")
def _(dtype: torch.dtype) -> Workload:
    load = nested(lambda a, b, n: {"a": a, "b": [b, n]}, lambda z, i: z["b"][0] if i else z["a"])
    load.modules.to(dtype).apply(lambda m: setattr(m, "p", 0) if isinstance(m, nn.Dropout) else None)
    load.batch.update({k: v.to(dtype) for k, v in load.batch.items()})
    for head in load.tasks.values():
        head.dropout = 0.0
    return load
