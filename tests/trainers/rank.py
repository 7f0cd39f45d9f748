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

from tests.trainers.pages import CONVOLUTIONS, run

QUIET = 'logger=False, accelerator="cpu", strategy="ddp", devices=2, enable_checkpointing=False, enable_progress_bar=False'
CHANGES = {
    "ddp": {"dist.destroy_process_group()\n": ""},
    "fsdp2": {"dist.destroy_process_group()\n": ""},  # the weights are still to be gathered
    "accelerate": {"Accelerator(": "Accelerator(cpu=True, "},
    "hf_trainer": {'output_dir="out",': 'output_dir="out", use_cpu=True, disable_tqdm=True, save_strategy="no",'},
    "lightning": {"logger=False": QUIET},
}


def whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def forget_the_group() -> None:
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def cases(pages: list[str]) -> list[tuple[str, str, bool]]:
    """Return (page, network, plain) of everything that is trained."""
    return list(product(pages, ["page", "convolutions"], [True, False]))


def main(pages: list[str], ports: list[str]) -> None:
    """Run every case with a store of its own, which waits at one of the ports: groups are made and destroyed."""
    torch.set_num_threads(1)
    trained = {}
    for (page, network, plain), port in zip(cases(pages), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        code = CONVOLUTIONS if network == "convolutions" else None
        names = run(page, plain=plain, network=code, changes=CHANGES[page])
        trained[page, network, plain] = {name: whole(value) for name, value in names["model"].state_dict().items()}
        forget_the_group()
    torch.save(trained, f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*does not have many workers which may be a bottleneck")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    main(sys.argv[1].split(","), sys.argv[2].split(","))
