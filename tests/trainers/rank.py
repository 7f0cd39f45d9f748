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


def main(pages: list[str]) -> None:
    torch.set_num_threads(1)
    trained = {}
    for number, (page, network, plain) in enumerate(product(pages, ["page", "convolutions"], [True, False])):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # keys of its own in the store of the parent
        code = CONVOLUTIONS if network == "convolutions" else None
        names = run(page, plain=plain, network=code, changes=CHANGES[page])
        trained[page, network, plain] = {name: whole(value) for name, value in names["model"].state_dict().items()}
        forget_the_group()
    torch.save(trained, f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*does not have many workers which may be a bottleneck")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    main(sys.argv[1:])
