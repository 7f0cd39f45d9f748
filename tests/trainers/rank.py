"""One of several processes that run pages, in the environment that torchrun would give it; see `test_ranks.py`.

Writes the final weights of every case into `rank<i>.pt`, by case and parameter.
"""

from __future__ import annotations

import os
import sys
import warnings
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.trainers.pages import CONVOLUTIONS, PLAIN_STEPS, run

# As a loop of one's own would be put into Lightning: nothing tells DDP of these backwards.
BY_HAND = {
    "super().__init__()": "super().__init__(); self.automatic_optimization = False",
    "        return self.model(**batch)\n": (
        "        optimizer = self.optimizers(); optimizer.zero_grad()\n"
        "        Split().forward_backward(model.trunk, model.tasks, batch); optimizer.step()\n"
    ),
    "accumulate_grad_batches=2, gradient_clip_val=0.5, ": "",
}
PLAIN_TRAINER = {"learning_rate=1e-2": "learning_rate=1e-2, optim='sgd'", "0.5": "0.0"}
QUIET = "logger=False, enable_checkpointing=False, enable_progress_bar=False"
ON_TWO = 'accelerator="cpu", strategy="ddp", devices=2'
CHANGES = {
    "ddp": {"dist.destroy_process_group()\n": ""},
    "fsdp2": {"dist.destroy_process_group()\n": ""},  # the weights are still to be gathered
    "accelerate": {"Accelerator(": "Accelerator(cpu=True, "},
    "hf_trainer": {'output_dir="out",': 'output_dir="out", use_cpu=True, disable_tqdm=True, save_strategy="no",'},
    "lightning": {"logger=False": f"{QUIET}, {ON_TWO}"},
}


def whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def forget_the_group() -> None:
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def cases(pages: list[str]) -> list[tuple[str, str, str]]:
    """Return (page, network, loop) of everything that is trained."""
    by_hand = [("lightning", "page", "by hand")] if "lightning" in pages else []
    return [*product(pages, ["page", "convolutions"], ["plain", "ours"]), *by_hand]


def main(pages: list[str], ports: list[str]) -> None:
    """Run every case with a store of its own, which waits at one of the ports: groups are made and destroyed."""
    warnings.filterwarnings("ignore", ".*does not have many workers which may be a bottleneck")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", ".*on 2 processes: the gradients are this process's own")  # by hand
    torch.set_num_threads(1)
    trained = {}
    for (page, network, loop), port in zip(cases(pages), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        code = CONVOLUTIONS if network == "convolutions" else None
        changes = CHANGES[page] | (BY_HAND if loop == "by hand" else {})
        if network == "convolutions":
            changes |= PLAIN_TRAINER if page == "hf_trainer" else PLAIN_STEPS
        names = run(page, plain=loop == "plain", network=code, changes=changes)
        trained[page, network, loop] = {name: whole(value) for name, value in names["model"].state_dict().items()}
        forget_the_group()
    torch.save(trained, f"rank{os.environ['RANK']}.pt")
