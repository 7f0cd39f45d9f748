"""Single calls on two ranks, for what surrounds a loss: groups, mistakes, collectives, the comparison of gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtl_accum import AsLoss, Split, Task
from mtl_accum.editions import require_equal_gradients
from mtl_accum.editions._engine import _parts
from mtl_accum.editions._engine.ranks import _share_out
from mtl_accum.editions._engine.ranks._agreement import Ranks
from tests.editions.rank_cases import Whole, batches, compare, expected

SIZES, ABSENT = [6, 14], ["c", "b"]


def mine() -> Any:
    return batches(SIZES, ABSENT, 0)[dist.get_rank()]


def apart(whole: Whole, reference: Whole) -> float:
    pairs = zip(whole.parameters(), reference.parameters(), strict=True)
    return max(float((p.grad - q.grad).abs().max()) for p, q in pairs if q.grad is not None)


def alone() -> float:
    """A group of this rank keeps the loss to itself."""
    group = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    whole, reference = Whole(None), Whole(None)
    Split().loss(whole.model.trunk, whole.tasks(), mine(), group=group)[0].backward()
    expected(reference, [[mine()]])
    return apart(whole, reference)


def outside() -> None:
    """Rank 1 is not in the group."""
    whole = Whole(None)
    group = dist.new_group([0])
    Split().loss(whole.model.trunk, whole.tasks(), mine(), group=group)


def no_group() -> None:
    whole = Whole(None)
    Split().loss(whole.model.trunk, whole.tasks(), mine(), group="data")


def evaluated() -> list[str]:
    """Rank 0 alone evaluates."""
    whole = Whole(None)
    if dist.get_rank() == 0:
        with torch.no_grad():
            return list(Split().loss(whole.model.trunk, whole.tasks(), mine())[1])
    return []


def collectives() -> list[str]:
    """The names of the collectives of a loss outside of any engine."""
    calls, before = [], dist.all_gather

    def all_gather(*args: Any, **named: Any) -> Any:
        calls.append("all_gather")
        return before(*args, **named)

    dist.all_gather = all_gather
    try:
        whole = Whole(None)
        Split().loss(whole.model.trunk, whole.tasks(), mine())[0].backward()
    finally:
        dist.all_gather = before
    return calls


def unlike(what: str) -> None:
    """Rank 1 calls with other tasks, or another edition."""
    whole, second = Whole(None), dist.get_rank() == 1
    tasks = dict(whole.tasks())
    if second and what == "order":
        tasks = dict(reversed(tasks.items()))
    if second and what == "more tasks":
        tasks["e"] = tasks["a"]
    if second and what == "many more tasks":
        tasks |= {f"e{number}": tasks["a"] for number in range(200)}
    edition = Split(order="reverse") if second and what == "edition" else Split()
    edition.loss(whole.model.trunk, tasks, mine())


class Opaque:
    """A batch that cannot be cut."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


def opaque() -> float:
    """Editions that do not cut need no number of samples; gradients averaged as DDP does."""
    whole, reference = Whole(None), Whole(None)
    tasks = {}
    for name in "ac":
        tasks[name] = lambda z, b, task=whole.model.tasks[name]: task(z, b.batch)
        tasks[name].count = lambda b, name=name: b.batch[name].numel() if name in b.batch else 0  # type: ignore[attr-defined]
    total, _ = Split().loss(lambda b: whole.model.trunk(b.batch), tasks, Opaque(mine()))
    total.backward()
    for parameter in whole.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    del reference.model.tasks._keys["b"], reference.model.tasks._keys["d"]
    expected(reference, [batches(SIZES, ABSENT, 0)])
    return apart(whole, reference)


def coupled() -> None:
    whole = Whole(None)
    tasks = {"a": Task(nn.Linear(8, 3).double(), nn.MSELoss(), "a", couples_samples=True)}
    Split().loss(whole.model.trunk, tasks, mine())


def functions() -> None:
    """Functions around tasks whose means on rank 0 are over other terms than the samples; warnings are errors."""
    _share_out._warned.clear()
    whole = Whole(None)
    tasks = {name: lambda z, b, task=task: task(z, b) for name, task in whole.tasks().items() if name in "bd"}
    batch = batches([6, 14], ["", ""], 0)[dist.get_rank()]
    Split().loss(whole.model.trunk, tasks, batch)


def without_shares() -> Any:
    """A mean of means, which the comparison must find."""
    before = Ranks.shares

    def shares(self: Ranks, *args: Any, **named: Any) -> Any:
        return {name: share and 1.0 for name, share in before(self, *args, **named).items()}

    Ranks.shares = shares
    try:
        return compare("ddp", "split", "unequal counts")
    finally:
        Ranks.shares = before


def compare_gradients(how: str) -> None:
    """Gradients that are averaged, or are not, or are missing on a rank."""
    whole = Whole(Split().loss)
    wrapped = DistributedDataParallel(whole)
    total, _ = (wrapped if how == "averaged" else whole)(mine())
    total.backward()
    if how == "missing" and dist.get_rank() == 1:
        whole.model.trunk.module[0][0].weight.grad = None
    names = whole.named_parameters()
    if how == "other parameters" and dist.get_rank() == 1:
        names = list(names)[1:]  # type: ignore[assignment]
    require_equal_gradients(names)


def as_edition() -> float:
    """Rank 0 alone runs a loss and its backward as an edition."""
    whole, reference = Whole(None), Whole(None)
    if dist.get_rank() == 1:
        return 0.0
    _parts._warned.clear()
    with pytest.warns(UserWarning, match="on 2 processes: the gradients are this process's own"):
        AsLoss(Split()).forward_backward(whole.model.trunk, whole.tasks(), mine())
    expected(reference, [[mine()]])
    return apart(whole, reference)
