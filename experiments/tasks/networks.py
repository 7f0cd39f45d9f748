"""Two families of networks with any number of tasks, and the ways to compare on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from experiments.tasks.checkpointed_heads import CheckpointedHeads
from experiments.tasks.torch_jd import TorchJD
from mtl_accum import AsLoss, Cached, Checkpointed, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.memory import Parts
from mtl_accum.models import many_tasks
from mtl_accum.testing import many_heads

__all__ = ["FAMILIES", "Family", "dense", "parts", "ways"]

CHUNKS = 4  # of the trunk, under Cached


@dataclass(frozen=True)
class Family:
    """Networks that differ in the number of their tasks.

    Attributes:
        name: Short name.
        what: Description in words.
        make: Function from (tasks, samples) to model and batch on the CPU.
        samples: Number of samples in a batch at scale 1.
        counts: Numbers of tasks, ascending.
    """

    name: str
    what: str
    make: Callable[[int, int], tuple[Any, Any]]
    samples: int
    counts: tuple[int, ...]


def dense(tasks: int, samples: int, width: int = 8, size: int = 32) -> tuple[Any, Any]:
    """Build the many_tasks model on square images: per-pixel regression and convolutional classifiers in turns."""
    model = many_tasks(tasks, width, 4, 2)
    images = torch.randn(2, samples, 1, size, size)
    return model, {"image": images[0], "clean": images[1], "digit": torch.randint(0, 10, (samples,))}


def tiny(tasks: int, samples: int) -> tuple[Any, Any]:
    """Build a multi-layer perceptron with linear heads of three outputs."""
    return many_heads(heads=tasks, width=64, samples=samples)


FAMILIES = {
    "dense": Family(
        "dense",
        "a convolutional trunk of 4 layers and heads of 2 convolutions on its full-size representation, "
        "width 8, images of 32x32",
        dense,
        16,
        (1, 2, 4, 8, 16, 32, 64),
    ),
    "tiny": Family(
        "tiny",
        "a perceptron of width 64 and heads of one linear layer with three outputs, each with a target of its own",
        tiny,
        1024,
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    ),
}


def ways(family: str, samples: int, device: torch.device) -> Mapping[str, Any]:
    """Return the editions that suit a family and its peers, by name; the first is the summed loss."""
    chosen: dict[str, Any] = {"summed": SummedLoss(), "per_task": PerTask(), "split": Split()}
    chosen |= {"split loss": AsLoss(Split()), "checkpointed heads": CheckpointedHeads()}
    peers = {"torchjd": TorchJD(), "torchjd by 1": TorchJD(chunk=1)}
    chosen["cached"] = Cached(max(1, samples // CHUNKS))
    if family == "tiny":
        return {**chosen, "split by 16": Split(heads_per_graph=16), **peers}
    chosen["checkpointed"] = Checkpointed(Split())
    if device.type == "cuda":  # on a CPU it makes copies and saves nothing
        chosen["offloaded"] = Offloaded(Split())
    return {**chosen, **peers}


def parts(make: Callable[[int, int], tuple[Any, Any]], tasks: int, samples: int, device: torch.device) -> Parts:
    """Build trunk, tasks, batch and AdamW on a device, the same ones every time."""
    torch.manual_seed(0)
    model, batch = make(tasks, samples)
    model.to(device)
    on_device = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
    # fused on a GPU: the default there makes temporaries of every parameter at once
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")
    return model.trunk, model.tasks, on_device, optimizer
