"""Training loops written by hand, without any library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.peers.networks import LR, Batch, Contrastive, MultiTask, Vocabulary

__all__ = ["checkpointed_heads", "cut", "logits", "per_task", "summed", "whole"]


def summed(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with all heads, the sum of the losses and one backward."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        loss: Any = sum(network.losses[name](head(z), batch[name]) for name, head in network.heads.items())
        loss.backward()
        optimizer.step()


def per_task(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with a forward and a backward for each task, trunk included."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        for name, head in network.heads.items():
            network.losses[name](head(network.trunk(batch["x"])), batch[name]).backward()
        optimizer.step()


def cut(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with the trunk once, then each head on the detached representation; the trunk's backward once."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        leaf = z.detach().requires_grad_()
        for name, head in network.heads.items():
            network.losses[name](head(leaf), batch[name]).backward()
        z.backward(leaf.grad)
        optimizer.step()


def checkpointed_heads(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with the summed loss, each head run again in the backward."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)

    def loss_of(name: str, z: Tensor, target: Tensor) -> Tensor:
        return network.losses[name](network.heads[name](z), target)

    for batch in batches:
        optimizer.zero_grad()
        z = network.trunk(batch["x"])
        loss = sum(checkpoint(loss_of, name, z, batch[name], use_reentrant=False) for name in network.heads)
        loss.backward()
        optimizer.step()


def whole(network: Contrastive, batches: Iterable[Batch]) -> None:
    """Train with the contrastive loss in one piece."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        network.loss(network.encoder(batch["queries"]), network.encoder(batch["documents"])).backward()
        optimizer.step()


def logits(network: Vocabulary, batches: Iterable[Batch]) -> None:
    """Train with all logits at once."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(network.head(network.trunk(batch["x"])), batch["word"]).backward()
        optimizer.step()
