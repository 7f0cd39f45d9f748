"""The situations of the exactness matrix: small networks, each with one thing that could go wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl_accum import Task, count_labels, count_mask, count_present
from tests.workloads import SAMPLES, Workload, images, nested, vector

TRUNK, HEADS = "trunk", "heads"


@dataclass(frozen=True)
class Situation:
    """What the matrix needs to know of a network.

    Attributes:
        make: builds it in a dtype.
        group: heading in the table.
        random: it draws random numbers, so that pieces are held against the same pieces.
        statistics: where it uses batch statistics ("trunk", "heads", "").
        coupled: a task declares that its loss couples samples.
    """

    make: Callable[[torch.dtype], Workload]
    group: str
    random: bool = False
    statistics: str = ""
    coupled: bool = False


SITUATIONS: dict[str, Situation] = {}


def situation(name: str, group: str, **facts):
    def register(make):
        SITUATIONS[name] = Situation(make, group, **facts)
        return make

    return register


def plain(dtype: torch.dtype, tasks: int = 3, **changes) -> Workload:
    return vector(dtype, tasks, **{"dropout": 0.0, "trunk_dropout": 0.0, **changes})


def rewrapped(load: Workload, trunk=None, **more) -> Workload:
    return Workload(trunk or load.trunk, {**load.tasks, **more}, load.batch, load.modules)


@situation("dropout in trunk and heads", "random numbers", random=True)
def _(dtype):
    return vector(dtype, 4)


@situation("convolutions, dropout, weights", "random numbers", random=True)
def _(dtype):
    return images(dtype)


@situation("dropout, checkpointed", "random numbers", random=True)
def _(dtype):
    return checkpointed(vector(dtype))


@situation("no random numbers", "plain")
def _(dtype):
    return plain(dtype)


@situation("one task", "plain")
def _(dtype):
    return plain(dtype, 1)


@situation("representation: dict of tensors and integers", "plain")
def _(dtype):
    load = nested(lambda a, b, n: {"a": a, "b": [b, n]}, lambda z, i: z["b"][0] if i else z["a"])
    load.modules.to(dtype).apply(lambda m: setattr(m, "p", 0) if isinstance(m, nn.Dropout) else None)
    load.batch.update({k: v.to(dtype) for k, v in load.batch.items()})
    for head in load.tasks.values():
        head.dropout = 0.0
    return load


def counted(dtype: torch.dtype, name: str) -> Workload:
    """A second task whose mean has an uneven number of terms in the pieces, and none in some of them."""
    load = plain(dtype, 1)
    head = nn.Linear(8, 4).to(dtype)
    load.modules.append(head)
    labels = torch.tensor([0, -100, 3, 1, -100, -100, -100])
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=dtype)
    values = torch.full((SAMPLES, 4), float("nan"), dtype=dtype)
    values[2:4], values[0, 1] = 0.5, -1.0
    load.batch.update(
        labels=labels, values=values, mask=(~values.isnan()).to(dtype), none=torch.full_like(labels, -100)
    )

    def masked(out: Tensor, y: Tensor) -> Tensor:
        return ((out - y.nan_to_num()) ** 2 * ~y.isnan()).sum() / (~y.isnan()).sum()

    tasks = {
        "ignored labels": Task(head, nn.CrossEntropyLoss(), "labels", count=count_labels("labels")),
        "class weights": Task(
            head, nn.CrossEntropyLoss(weight), "labels", 0.3, count_labels("labels", weight=weight)
        ),
        "missing values": Task(head, masked, "values", count=count_present("values")),
        "mask": Task(head, masked, lambda b: b["values"], count=count_mask("mask")),
        "absent: no count": Task(head, nn.CrossEntropyLoss(), "none", count=count_labels("none")),
        "absent: no target": Task(head, nn.CrossEntropyLoss(), "nowhere"),
    }  # fmt: skip
    return rewrapped(load, **{name: tasks[name]})


for _name in ("ignored labels", "class weights", "missing values", "mask", "absent: no count", "absent: no target"):
    situation(_name, "counts")(functools.partial(counted, name=_name))


@situation("BatchNorm in the trunk", "buffers", statistics=TRUNK)
def _(dtype):
    return plain(dtype, norm=nn.BatchNorm1d(9))


@situation("BatchNorm, cumulative average", "buffers", statistics=TRUNK)
def _(dtype):
    return plain(dtype, norm=nn.BatchNorm1d(9, momentum=None))


@situation("BatchNorm in eval mode", "buffers")
def _(dtype):
    load = plain(dtype, norm=nn.BatchNorm1d(9))
    load.modules.eval()
    return load


@situation("BatchNorm in a head", "buffers", statistics=HEADS)
def _(dtype):
    load = plain(dtype, 2)
    norm = nn.BatchNorm1d(8).to(dtype)
    load.modules.append(norm)
    return rewrapped(load, normed=lambda z, b: norm(z).pow(3).mean())


@situation("BatchNorm, checkpointed", "buffers", statistics=TRUNK)
def _(dtype):
    return checkpointed(plain(dtype, norm=nn.BatchNorm1d(9)))


class Drifting(nn.Module):
    """Running state that matters for the forward, put in place anew at every call."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=dtype))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        self.scale = 0.9 * self.scale
        self.calls += 1
        return y


@situation("running state that the forward reads", "buffers", random=True)  # pieces see it drift
def _(dtype):
    return plain(dtype, norm=Drifting(dtype))


@situation("running state, checkpointed", "buffers", random=True)
def _(dtype):
    return checkpointed(plain(dtype, norm=nn.Sequential(nn.Tanh(), Drifting(dtype))))


@situation("spectral norm", "buffers", random=True, statistics=TRUNK)  # a power iteration a call
def _(dtype):
    load = plain(dtype)
    load.modules[0][0] = nn.utils.parametrizations.spectral_norm(load.modules[0][0])
    return load


def checkpointed(load: Workload) -> Workload:
    tasks = {n: lambda z, b, t=t: checkpoint(t, z, b, use_reentrant=False) for n, t in load.tasks.items()}
    trunk = load.trunk
    return Workload(lambda b: checkpoint(trunk, b, use_reentrant=False), tasks, load.batch, load.modules)


@situation("checkpointed trunk and heads", "composition")
def _(dtype):
    return checkpointed(plain(dtype))


@situation("saved tensors on the CPU", "composition")
def _(dtype):
    load = plain(dtype)
    trunk = load.trunk

    def offloaded(batch):
        with torch.autograd.graph.save_on_cpu():
            return trunk(batch)

    return rewrapped(load, offloaded)


@situation("compiled trunk and heads", "composition", random=True)
def _(dtype):
    load = vector(dtype, 2, dropout=0.0, trunk_dropout=0.0)
    torch._dynamo.reset()  # or it stops compiling after a number of cells
    trunk = torch.compile(load.modules[0], backend="eager")
    tasks = {name: torch.compile(task, backend="eager") for name, task in load.tasks.items()}
    return Workload(lambda b: trunk(b["x"]), tasks, load.batch, load.modules)


@situation("compiled trunk with BatchNorm", "composition", statistics=TRUNK)
def _(dtype):
    load = plain(dtype, norm=nn.BatchNorm1d(9))
    torch._dynamo.reset()
    trunk = torch.compile(load.modules[0], backend="eager")
    return rewrapped(load, lambda b: trunk(b["x"]))


@situation("adapters on frozen layers (LoRA)", "composition")
def _(dtype):
    load = plain(dtype)
    load.modules.requires_grad_(False)
    down, up = nn.Linear(6, 2, bias=False).to(dtype), nn.Linear(2, 8, bias=False).to(dtype)
    load.modules.extend([down, up])
    trunk = load.trunk
    return rewrapped(load, lambda b: trunk(b) + up(down(b["x"])))


def frozen(dtype, which):
    load = plain(dtype)
    load.modules[which].requires_grad_(False)
    return load


situation("frozen trunk", "awkward models")(functools.partial(frozen, which=0))
situation("frozen heads", "awkward models")(functools.partial(frozen, which=1))


@situation("heads without parameters, reading the batch, reading z twice", "awkward models")
def _(dtype):
    more = {
        "norm": lambda z, b: z.square().mean(),
        "input": lambda z, b: (z[:, :6] * b["x"]).mean(),
        "twice": lambda z, b: (z * z.flip(1)).mean(),
        "no gradient": lambda z, b: z.detach().mean(),
    }
    return rewrapped(plain(dtype), **more)


@situation("parameters shared by heads", "awkward models")
def _(dtype):
    load = plain(dtype, 2)
    load.tasks["t1"].first = load.tasks["t0"].first
    return rewrapped(load, again=load.tasks["t0"])


@situation("parameter shared by trunk and head", "awkward models")
def _(dtype):
    load = plain(dtype)
    tied = load.modules[0][0]
    return rewrapped(load, tied=lambda z, b: F.mse_loss(z @ tied.weight[:8], b["x"]))


@situation("representation that no head uses", "awkward models")
def _(dtype):
    load = plain(dtype)
    trunk, spare = load.modules[0], nn.Linear(6, 2).to(dtype)
    load.modules.append(spare)
    tasks = {name: lambda z, b, task=task: task(z[0], b) for name, task in load.tasks.items()}
    return Workload(lambda b: (trunk(b["x"]), spare(b["x"])), tasks, load.batch, load.modules)


class Contrastive(nn.Module):
    couples_samples = True

    def forward(self, z: Tensor, batch) -> Tensor:
        return F.cross_entropy(z @ z.T, torch.arange(len(z)))


@situation("contrastive loss", "awkward models", coupled=True)
def _(dtype):
    return rewrapped(plain(dtype), contrastive=Contrastive())
