"""The summed loss with each head under torch's activation checkpointing."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mtl_accum.editions import Tasks, Trunk, phase

__all__ = ["CheckpointedHeads"]


class CheckpointedHeads:
    """CheckpointedHeads: the summed loss with every head under `torch.utils.checkpoint`, which runs it twice.

    One head's graph is alive at a time, in the backward: the memory of `Split`, for one more forward of every head.
    """

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`; every task must have a target in the batch."""
        with phase("trunk", "forward"):
            z = trunk(batch)
        with phase("all heads", "forward"):
            losses = [checkpoint(task, z, batch, use_reentrant=False) for task in tasks.values()]
        del z
        with phase("heads and trunk", "backward"):
            sum(losses[1:], losses[0]).backward()
        return {name: loss.detach().clone() for name, loss in zip(tasks, losses, strict=True)}
