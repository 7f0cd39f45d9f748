"""A situation of the field: a network, its batch, and the expected result of every edition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum import Task

SAMPLES = 7
PIECES = ("Cached", "head chunks", "Accumulated")
ONE_PASS = ("SummedLoss", "Split", "head chunks")  # the trunk runs once
EVERY = ("SummedLoss", "Split", "PerTask", "Checkpointed", "Cached, one chunk", *PIECES)


@dataclass
class Network:
    """The parts of a user's loop: `sum(task(z, batch) for task in tasks).backward()` with `z = trunk(batch)`.

    Attributes:
        modules: Owner of the parameters.
        leaves: Other tensors that get a gradient, by name.
        plain: The user's own loop, where it is not the summed loss.
        autocast: Whether the loop runs under bfloat16 autocast.
    """

    trunk: Any  # a function of the batch; untyped, since situations reach into it
    tasks: Mapping[str, Any]
    batch: Any
    modules: nn.Module
    leaves: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Callable[[], None] | None = None
    autocast: bool = False


@dataclass(frozen=True)
class Situation:
    """A network of the field, and the expected result of every edition.

    Attributes:
        make: Function that builds the network, the same one each time.
        right: Editions whose gradient must be the plain loop's.
        blind: Editions that cannot see the fault and are wrong; `check` must find it.
        by_pieces: Whether pieces draw other random numbers, or round to other 16-bit numbers, than the whole batch:
            editions in pieces are held against the summed loss over the same pieces.
        fix: Remedy for the user where an edition refuses.
    """

    make: Callable[[], Network]
    right: Collection[str]
    blind: Collection[str] = ()
    by_pieces: bool = False
    fix: str = ""


def vectors(*tasks: str, width: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = {"x": torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)}
    return batch | {t: torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64) for t in tasks}


def heads(*tasks: str, loss: Callable[..., Tensor] = nn.MSELoss(), width: int = 1) -> dict[str, Task]:  # noqa: B008
    return {name: Task(nn.Linear(5, width), loss, name) for name in tasks}


def network(trunk: nn.Module, tasks: dict[str, Any], batch: Any, *others: nn.Module, **options: Any) -> Network:
    torch.manual_seed(0)
    modules = nn.ModuleList(
        [trunk, *others, *(task for task in tasks.values() if isinstance(task, nn.Module))]
    ).double()
    for parameter in modules.parameters():
        nn.init.normal_(parameter, std=0.4)
    return Network(trunk, tasks, batch, modules, **options)


class Layers(nn.Module):
    """Two layers on `batch["x"]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, batch: Any) -> Any:
        return self.last(torch.tanh(self.first(self.transform(batch["x"]))))

    def transform(self, x: Tensor) -> Tensor:
        return x
