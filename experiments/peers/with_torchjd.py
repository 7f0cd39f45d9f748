"""Training loops with TorchJD: gradients of several losses, aggregated by their sum."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from experiments.peers.networks import LR, Batch, MultiTask

__all__ = ["documented", "task_by_task"]


def documented(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train as in TorchJD's documentation: all losses, one `mtl_backward`."""
    from torchjd.aggregation import Sum
    from torchjd.autojac import jac_to_grad, mtl_backward

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        losses = [network.losses[name](head(z), batch[name]) for name, head in network.heads.items()]
        mtl_backward(losses, features=z)
        jac_to_grad(list(network.trunk.parameters()), Sum())
        optimizer.step()


def task_by_task(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with one call per task: a head's graph is freed before the next head runs, and the trunk's rows add up."""
    from torchjd.aggregation import Sum
    from torchjd.autojac import jac_to_grad, mtl_backward

    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        for name, head in network.heads.items():
            mtl_backward([network.losses[name](head(z), batch[name])], features=z, retain_graph=True)
        jac_to_grad(list(network.trunk.parameters()), Sum())
        optimizer.step()
