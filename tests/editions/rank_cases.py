"""What two ranks run: one loss around a whole model under DDP or FSDP2, against one process on the whole batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mtl_accum import Accumulated, Cached, Checkpointed, MultiTaskModel, Split, SummedLoss, Task, fold
from mtl_accum.verify._difference import gradient_difference

Batch = dict[str, Tensor]
WIDTH = 8


class Whole(nn.Module):
    """A model whose forward returns the loss, as trainers want it: a trunk of three blocks, four heads of two."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(5 if i == 0 else WIDTH, WIDTH), nn.Tanh()) for i in range(3)]
        losses = zip("abcd", (nn.MSELoss(), nn.CrossEntropyLoss()) * 2, strict=True)
        tasks = {name: Task(head(), loss, name) for name, loss in losses}
        self.model = MultiTaskModel(nn.Sequential(*blocks), tasks, "x").double()
        self.loss = loss

    def tasks(self) -> Mapping[str, Callable[[Tensor, Batch], Tensor]]:
        return self.model.tasks

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(self.model.trunk, self.tasks(), batch)


def head() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()), nn.Linear(WIDTH, 3))


class Weighted(Whole):
    """Tasks that are functions, and parameters that they read from their closures."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__(loss)
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.tensor([0.3]).double()) for name in "abcd"})

    def tasks(self) -> dict[str, Any]:
        return {name: weighted(task, self.log_variances[name]) for name, task in self.model.tasks.items()}


def weighted(task: Any, log_variance: Any) -> Callable[..., Any]:
    def function(z: Any, batch: Any) -> Tensor:
        return (torch.exp(-log_variance) * task(z, batch) + log_variance).sum()

    function.count = task.count  # type: ignore[attr-defined]
    return function


class Spare(Whole):
    """Heads with a layer that is not used, and a representation with a part that one task alone reads."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__(loss)
        self.model.trunk.module.append(Two())
        for task in self.model.tasks.values():
            task.head = First(task.head)
        self.model.tasks["c"].head.number = 1
        self.double()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, z: Any) -> Any:
        return tuple(layer(z) for layer in self.layers)


class First(nn.Module):
    """A head on one of several tensors; one more layer waits for another loss."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.spare, self.number = module, nn.Linear(WIDTH, 3), 0

    def forward(self, z: Any) -> Any:
        return self.module(z[self.number])


def frozen(part: str) -> Callable[[Callable[..., Any]], Whole]:
    def make(loss: Callable[..., Any]) -> Whole:
        whole = Whole(loss)
        whole.model.get_submodule(part).requires_grad_(False)
        return whole

    return make


def shared(loss: Callable[..., Any]) -> Whole:
    """Two heads with a layer in common."""
    whole = Whole(loss)
    whole.model.tasks["b"].head[0] = whole.model.tasks["c"].head[0]
    return whole


NETWORKS = {
    "plain": Whole,
    "frozen trunk": frozen("trunk"),
    "frozen head": frozen("tasks.b"),
    "shared layer": shared,
    "functions": Weighted,
    "spare": Spare,
}


def sum_of_folds(trunk: Any, tasks: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    z = trunk(batch)
    losses = {name: fold(task, z, batch) for name, task in tasks.items()}
    return sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}


def sum_of_each(trunk: Any, tasks: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    losses = Split().losses(trunk, tasks, batch)
    return sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}


FORMS = {
    "fold": sum_of_folds,
    "split": Split().loss,
    "split in head chunks": Split(head_chunks=2).loss,
    "cached": Cached(chunk_size=3).loss,
    "accumulated": Accumulated(Split(), 2).loss,
    "each": sum_of_each,
    "summed": SummedLoss().loss,
    "one graph": Split(heads_per_graph=3, order="reverse").loss,
    "checkpointed": Checkpointed(Split()).loss,
    "accumulated cached": Accumulated(Cached(2, head_chunks=2), 2).loss,
}


def ddp(**options: Any) -> Callable[[Whole], nn.Module]:
    return lambda whole: DistributedDataParallel(whole, **options)


def sharded(*patterns: str) -> Callable[[Whole], nn.Module]:
    """FSDP2 on the modules whose names match, pattern by pattern, and on the whole."""

    def shard(whole: Whole) -> nn.Module:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        names = [name for name, _ in whole.named_modules()]
        for pattern in patterns:
            for name in filter(re.compile(pattern).fullmatch, names):
                fully_shard(whole.get_submodule(name), mesh=mesh)
        return fully_shard(whole, mesh=mesh)  # type: ignore[return-value]

    return shard


BLOCKS, TRUNK, TASK = r"model\.trunk\.module\.\d", r"model\.trunk", r"model\.tasks\.\w"
ENGINES = {
    "ddp": ddp(),
    "ddp static": ddp(static_graph=True),
    "ddp unused": ddp(find_unused_parameters=True),
    "ddp view": ddp(gradient_as_bucket_view=True),
    "ddp unused view": ddp(gradient_as_bucket_view=True, find_unused_parameters=True),
    "ddp no_sync": ddp(),
    "ddp unused no_sync": ddp(find_unused_parameters=True),
    "fsdp parts": sharded(TASK, BLOCKS, TRUNK),
    "fsdp nested": sharded(rf"{TASK}\.head\.\d", rf"{TASK}\.head", TASK, BLOCKS, TRUNK),
    "fsdp blocks": sharded(BLOCKS),
    "fsdp root": sharded(),
    "fsdp heads": sharded(TASK),
}


def batches(sizes: list[int], absent: list[str], step: int) -> list[Batch]:
    """The batches of all ranks in a step; half of the labels of the first rank are ignored where sizes differ."""
    torch.manual_seed(step)
    made = []
    for size, names in zip(sizes, absent, strict=True):
        batch: Batch = {"x": torch.randn(size, 5, dtype=torch.float64)}
        batch |= {name: torch.randn(size, 3, dtype=torch.float64) for name in "ac" if name not in names}
        batch |= {name: torch.randint(3, (size,)) for name in "bd" if name not in names}
        made.append(batch)
    if len(set(sizes)) > 1 and "b" in made[0]:
        made[0]["b"][::2] = -100
    return made


# By step and rank: the sizes of the batches, and the tasks that are not in them.
SITUATIONS = {
    "all tasks": ([[8, 8], [8, 8]], [["", ""], ["", ""]]),
    "unequal counts": ([[6, 14], [14, 6]], [["", ""], ["", ""]]),
    "other tasks absent": ([[6, 14], [8, 12]], [["c", "b"], ["ad", "c"]]),
    "a rank without tasks": ([[8, 8], [8, 8]], [["abcd", ""], ["", "abcd"]]),
    "absent everywhere": ([[6, 14], [6, 14]], [["cd", "d"], ["d", "bd"]]),
    "absent everywhere in one step": ([[8, 8], [8, 8]], [["", ""], ["cd", "d"]]),
}


def expected(whole: Whole, steps: list[list[Batch]]) -> list[dict[str, Tensor]]:
    """One process: add the gradients of the plain sum of the losses of all ranks' rows, and return those."""
    losses: list[dict[str, Tensor]] = []
    for step in steps:
        losses.append({})
        for name, task in whole.tasks().items():
            having = [batch for batch in step if name in batch]
            if having:
                rows = {key: torch.cat([batch[key] for batch in having]) for key in ("x", name)}
                losses[-1][name] = task(whole.model.trunk(rows), rows)
        sum(losses[-1].values()).backward()
    return [{name: loss.detach() for name, loss in of_step.items()} for of_step in losses]


def compare(engine: str, form: str, situation: str, network: str = "plain") -> tuple[float, float]:
    """Run two accumulated steps on this rank.

    Returns:
        The differences of the gradients and of the losses from those of one process.
    """
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    sizes, absent = SITUATIONS[situation]
    steps = [batches(*of_step, number) for number, of_step in enumerate(zip(sizes, absent, strict=True))]
    reference = NETWORKS[network](None)
    losses = expected(reference, steps)
    wrapped = ENGINES[engine](NETWORKS[network](FORMS[form]))
    apart = 0.0
    for number, step in enumerate(steps):
        with wrapped.no_sync() if "no_sync" in engine and number == 0 else nullcontext():
            total, parts = wrapped(step[rank])
            total.backward()
        row = torch.stack([*parts.values()])
        torch.testing.assert_close(total.detach(), row.sum(), rtol=1e-12, atol=1e-12)
        torch.distributed.all_reduce(row)
        right = torch.stack([losses[number].get(name, torch.zeros((), dtype=row.dtype)) for name in parts])
        apart = max(apart, float((row / ranks - right).abs().max()))
    whole = getattr(wrapped, "module", wrapped)
    gradients = {name: complete(parameter.grad) for name, parameter in whole.named_parameters()}
    right = {name: parameter.grad for name, parameter in reference.named_parameters()}  # type: ignore[assignment]
    if network == "spare":  # zeros or None, as on the rank that does not run the head
        zeros = {name: torch.zeros_like(parameter) for name, parameter in reference.named_parameters()}
        gradients = {name: zeros[name] if gradient is None else gradient for name, gradient in gradients.items()}
        right = {name: zeros[name] if gradient is None else gradient for name, gradient in right.items()}  # type: ignore[assignment, attr-defined]
    return gradient_difference(gradients, right), apart


def complete(gradient: Any) -> Tensor | None:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
