"""A user's module around a task: its count, its absence and what it declares are kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_accum import (
    Accumulated,
    Cached,
    PerTask,
    Split,
    Task,
)
from tests.asserts import assert_same_gradient, run
from tests.editions.editions import IN_PIECES, every_edition, in_pieces
from tests.workloads import Workload, vector


class Uncertain(nn.Module):
    """A learned log-variance around a loss, as users write it: no count of its own."""

    def __init__(self, *tasks: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(tasks)
        self.s = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, z, batch):
        return (-self.s).exp() * sum(task(z, batch) for task in self.inner) + self.s


def uncertain(*targets: str, around=Uncertain, **options) -> Workload:
    load = vector(tasks=1, dropout=0, trunk_dropout=0)
    load.batch["label"] = torch.tensor([-100, 2, -100, -100, 0, 1, 2])
    heads = [Task(nn.Linear(8, 3).double(), nn.CrossEntropyLoss(**options), target) for target in targets]
    task = around(*heads)
    return Workload(load.trunk, {**load.tasks, "u": task}, load.batch, nn.ModuleList([load.modules, task]))


@pytest.mark.parametrize("edition", [PerTask(), Split(), *IN_PIECES], ids=repr)
@pytest.mark.parametrize("around", [Uncertain, lambda task: nn.Sequential(Uncertain(Uncertain(task)))[0]])
def test_wrapped_task_keeps_its_count(edition, around):
    assert_same_gradient(edition, lambda: uncertain("label", around=around))


@every_edition
def test_wrapped_task_is_absent_with_its_target(edition):
    load = uncertain("labl")
    left = run(edition, load)
    assert left["losses"]["u"] == 0
    assert left["gradients"]["1.s"] is None


@in_pieces
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uncertain("label", "label"), "task 'u': Uncertain holds 2 modules with a count each.*define count"),
        (lambda: uncertain("label", reduction="sum"), "task 'u': Uncertain is around a sum.*reduction = 'sum'"),
    ],
)
def test_wrapper_without_a_count_to_use(edition, make, message):
    load = make()
    assert run(Split(), load)["losses"]["u"] != 0
    if getattr(edition, "edition", edition) == Cached(2):
        assert_same_gradient(edition, make)  # its heads see the whole batch
    else:
        with pytest.raises(ValueError, match=message):
            run(edition, load)


@pytest.mark.parametrize("edition", [Split(head_chunks=2), Accumulated(Split(), 2)], ids=repr)
def test_wrapper_around_coupled_samples(edition):
    load = uncertain("label")
    load.tasks["u"].inner[0].couples_samples = True
    with pytest.raises(ValueError, match="task 'u' declares couples_samples=True"):
        run(edition, load)
