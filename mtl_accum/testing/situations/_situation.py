"""The table of situations, and the small networks that they start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from mtl_accum.testing._workloads import Workload, vector

__all__ = ["HEADS", "SITUATIONS", "TRUNK", "Situation", "checkpointed", "plain", "rewrapped", "situation"]

TRUNK, HEADS = "trunk", "heads"
Make = Callable[[torch.dtype], Workload]


@dataclass(frozen=True)
class Situation:
    """A network with one thing that could go wrong, and what the matrix expects of it.

    Attributes:
        make: Function that builds the network in a dtype.
        group: Heading in the table.
        random: Whether it draws random numbers, so pieces are compared with the same pieces.
        statistics: Part that uses batch statistics: "trunk", "heads" or "".
        coupled: Whether a task declares that its loss couples samples.
    """

    make: Make
    group: str
    random: bool = False
    statistics: str = ""
    coupled: bool = False


SITUATIONS: dict[str, Situation] = {}


def situation(
    name: str, group: str, *, random: bool = False, statistics: str = "", coupled: bool = False
) -> Callable[[Make], Make]:
    """Register the decorated function as a situation; the arguments are those of `Situation`."""

    def register(make: Make) -> Make:
        SITUATIONS[name] = Situation(make, group, random, statistics, coupled)
        return make

    return register


def plain(dtype: torch.dtype, tasks: int = 3, **changes: Any) -> Workload:
    """Build `vector` without dropout; `changes` are further arguments of it."""
    return vector(dtype, tasks, **{"dropout": 0.0, "trunk_dropout": 0.0, **changes})


def rewrapped(load: Workload, trunk: Callable[[Any], Any] | None = None, **tasks: Any) -> Workload:
    """Replace the trunk of a workload, or add tasks to it."""
    return Workload(trunk or load.trunk, {**load.tasks, **tasks}, load.batch, load.modules)


def checkpointed(load: Workload) -> Workload:
    """Run the trunk and each task of a workload under activation checkpointing."""
    tasks = {n: lambda z, b, t=t: checkpoint(t, z, b, use_reentrant=False) for n, t in load.tasks.items()}
    trunk = load.trunk
    return Workload(lambda b: checkpoint(trunk, b, use_reentrant=False), tasks, load.batch, load.modules)
