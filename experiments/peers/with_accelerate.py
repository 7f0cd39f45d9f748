"""Training loop with Hugging Face Accelerate: every task is a micro step of gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from experiments.peers.networks import LR, Batch, MultiTask

__all__ = ["micro_step_per_task"]


def micro_step_per_task(network: MultiTask, batches: Iterable[Batch]) -> None:
    """Train with a micro step per task; `backward` divides by their number, which the factor undoes."""
    from accelerate import Accelerator

    count, on_cpu = len(network.heads), not next(network.parameters()).is_cuda
    accelerator = Accelerator(cpu=on_cpu, gradient_accumulation_steps=count)
    model, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=LR))
    for batch in batches:
        for name, head in network.heads.items():
            with accelerator.accumulate(model):
                loss = network.losses[name](head(network.trunk(batch["x"])), batch[name])
                accelerator.backward(count * loss)
                optimizer.step()
                optimizer.zero_grad()
