"""Training loops with Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from experiments.peers.networks import LR, Batch, MultiTask

__all__ = ["per_task", "summed"]

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def summed(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train by automatic optimization of the summed loss."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Batch, index: int) -> Any:
            z = self.network.trunk(batch["x"])
            return sum(network.losses[name](head(z), batch[name]) for name, head in self.network.heads.items())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    accelerator = next(network.parameters()).device.type
    L.Trainer(accelerator=accelerator, devices=1, max_epochs=1, **_QUIET).fit(Module(), batches)


def per_task(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train by manual optimization, a forward and a backward for each task."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.automatic_optimization = False

        def training_step(self, batch: Batch, index: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            for name, head in self.network.heads.items():
                self.manual_backward(network.losses[name](head(self.network.trunk(batch["x"])), batch[name]))
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    accelerator = next(network.parameters()).device.type
    L.Trainer(accelerator=accelerator, devices=1, max_epochs=1, **_QUIET).fit(Module(), batches)
