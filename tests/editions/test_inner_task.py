"""A user's own module around a task: what the task tells of itself is seen below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, Edition, OverBatches, PerTask, Split, SummedLoss, Task, count_labels
from mtl_accum.editions._engine import counted, couples_samples, facts
from mtl_accum.testing import SAMPLES, Workload, assert_same_gradient, vector
from mtl_accum.verify._difference import gradient_difference

IN_PIECES = [
    Split(head_chunks=3),
    Cached(2, head_chunks=2),
    Accumulated(Split(), 3),
    Accumulated(Accumulated(Split(), 2), 2),
]
every_edition = pytest.mark.parametrize("edition", [PerTask(), Split(), Cached(2), *IN_PIECES], ids=repr)
in_pieces = pytest.mark.parametrize("edition", IN_PIECES, ids=repr)


class Uncertain(nn.Module):
    """A learned weight (Kendall, Gal and Cipolla, 2018)."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task, self.log = task, nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return torch.exp(-self.log) * self.task(z, batch) + self.log


class Both(nn.Module):
    """The sum of some tasks."""

    def __init__(self, *tasks: Any) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(tasks)

    def forward(self, z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return sum(task(z, batch) for task in self.tasks)


def labelled(**more: Any) -> Task:
    return Task(nn.Linear(8, 4).double(), nn.CrossEntropyLoss(), "labels", **more)


def around(
    make: Callable[..., Any], labels: list[int] | tuple[int, ...] = (0, -100, 3, 1, -100, -100, -100)
) -> Workload:
    load = vector(dropout=0.0, trunk_dropout=0.0, tasks=1)
    task = make()
    load.modules.append(task)
    load.batch["labels"] = torch.tensor(labels)
    return Workload(load.trunk, {**load.tasks, "around": task}, load.batch, load.modules)


WRAPPERS = {
    "the loss's own labels": lambda: Uncertain(labelled()),
    "a count": lambda: Uncertain(labelled(count=count_labels("labels"))),
    "two of them": lambda: Uncertain(Uncertain(labelled())),
    "the same task twice": lambda: Both(*[labelled()] * 2),
}


@every_edition
@pytest.mark.parametrize("name", WRAPPERS)
def test_the_count_is_that_of_the_task_inside(edition: Edition, name: str) -> None:
    torch.manual_seed(3)
    assert_same_gradient(edition, lambda: around(WRAPPERS[name]))


def test_batches_of_a_loader_weigh_their_share_of_the_inner_task() -> None:
    load = around(WRAPPERS["a count"])
    whole = [{key: value[a:b] for key, value in load.batch.items()} for a, b in ((0, 3), (3, 4), (4, SAMPLES))]
    SummedLoss().forward_backward(load.trunk, load.tasks, load.batch)
    expected = load.gradients()
    load.modules.zero_grad()
    OverBatches(Split()).forward_backward(load.trunk, load.tasks, whole)
    assert gradient_difference(load.gradients(), expected) <= 1e-12


@every_edition
@pytest.mark.parametrize("target", ["labels", "nowhere"])
def test_an_absent_task_is_absent_with_what_is_around_it(edition: Edition, target: str) -> None:
    task = Uncertain(Task(nn.Linear(8, 4).double(), nn.CrossEntropyLoss(), target, count=count_labels("labels")))
    load = around(lambda: task, labels=[-100] * SAMPLES)
    task.register_forward_pre_hook(lambda *_: pytest.fail("an absent task was called"))
    assert edition.forward_backward(load.trunk, load.tasks, load.batch)["around"] == 0
    assert task.log.grad is None


@in_pieces
def test_coupled_samples_are_seen_below(edition: Edition) -> None:
    load = around(lambda: Uncertain(labelled(couples_samples=True)))
    with pytest.raises(ValueError, match="task 'around' declares couples_samples=True"):
        edition.forward_backward(load.trunk, load.tasks, load.batch)


class Sum(Uncertain):
    reduction = "sum"

    def forward(self, z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return 0.5 * self.task(z, batch)


def summed() -> Task:
    return Task(nn.Linear(8, 4).double(), nn.CrossEntropyLoss(reduction="sum"), "labels")


@every_edition
def test_a_module_around_a_sum_may_say_that_it_is_one(edition: Edition) -> None:
    assert_same_gradient(edition, lambda: around(lambda: Sum(summed()), labels=[0, 1, 2, 3, 0, 1, 2]))


UNCOUNTABLE = {
    "a sum": (lambda: Uncertain(summed()), r"Uncertain is around a sum .*; set reduction = 'sum' on Uncertain"),
    "several": (
        lambda: Both(labelled(), labelled()),
        r"Both holds 2 modules with a count each.*define count\(batch\) on Both",
    ),
}


@pytest.mark.parametrize("name", UNCOUNTABLE)
def test_what_cannot_be_counted_is_told_to_count_where_it_matters(name: str) -> None:
    make, message = UNCOUNTABLE[name]
    for edition in (PerTask(), Split(), Cached(2)):
        assert_same_gradient(edition, lambda: around(make))
    for edition in IN_PIECES:  # type: ignore[assignment]
        load = around(make)
        with pytest.raises(ValueError, match="task 'around': " + message) as caught:
            edition.forward_backward(load.trunk, load.tasks, load.batch)
        assert "\n" not in str(caught.value)
        load.tasks["around"].count = lambda batch: (batch["labels"] != -100).sum()
        if name == "several":
            torch.manual_seed(3)
            assert_same_gradient(edition, lambda: with_count(make))


def with_count(make: Callable[..., Any]) -> Workload:
    load = around(make)
    load.tasks["around"].count = lambda batch: (batch["labels"] != -100).sum()
    return load


@in_pieces
def test_a_clamped_count_is_refused_below_a_module_that_adds(edition: Edition) -> None:
    """It counts 1 where a piece has nothing: the task's loss is 0 there, what the module adds is not."""

    def masked(out: Tensor, y: Tensor) -> Tensor:
        valid = (y != -100).double()
        terms = F.cross_entropy(out, y.clamp(min=0), reduction="none") * valid
        return terms.sum() / valid.sum().clamp(min=1)

    def make() -> Task:
        count = lambda batch: (batch["labels"] != -100).sum().clamp(min=1)
        return Task(nn.Linear(8, 4).double(), masked, "labels", count=count)

    load = around(lambda: Uncertain(make()))
    with pytest.raises(ValueError, match=r"task 'around': .*leave out clamp\(min=1\)"):
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    torch.manual_seed(3)
    assert_same_gradient(edition, lambda: around(make))


def within(function: Callable[..., Any], **more: Any) -> Workload:
    load = around(lambda: labelled(**more))
    task = load.tasks["around"]
    load.tasks["around"] = lambda z, batch: function(task, z, batch)
    return load


@in_pieces
def test_a_function_around_a_task_is_refused_where_it_hides_another_count(edition: Edition) -> None:
    load = within(lambda task, z, batch: 0.5 * task(z, batch))
    message = r"task 'around': it calls a Task whose count of the pieces is .*set \.count .* on the function"
    with pytest.raises(ValueError, match=message):
        edition.forward_backward(load.trunk, load.tasks, load.batch)


@in_pieces
def test_a_function_around_a_task_that_couples_samples_is_refused(edition: Edition) -> None:
    load = within(lambda task, z, batch: 0.5 * task(z, batch), couples_samples=True)
    with pytest.raises(ValueError, match="task 'around': it calls a Task that declares couples_samples=True"):
        edition.forward_backward(load.trunk, load.tasks, load.batch)


def counted_function() -> Workload:
    load = within(lambda task, z, batch: 0.5 * task(z, batch))
    load.tasks["around"].count = count_labels("labels")
    return load


def around_a_mean() -> Workload:
    load = vector(dropout=0.0, trunk_dropout=0.0, tasks=1)
    task = Task(nn.Linear(8, 2).double(), nn.MSELoss(), "y0")
    load.modules.append(task)
    return Workload(load.trunk, {"around": lambda z, b: 0.5 * task(z, b)}, load.batch, load.modules)


FUNCTIONS = {
    "with the count": counted_function,
    "around a mean over the samples": around_a_mean,
    "of a task's head alone": lambda: within(lambda task, z, batch: task.head(z).square().mean()),
}


@every_edition
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_functions_around_a_task_are_exact(edition: Edition, name: str) -> None:
    torch.manual_seed(3)
    assert_same_gradient(edition, FUNCTIONS[name])


@pytest.mark.parametrize("edition", [PerTask(), Split(), Cached(2)], ids=repr)
def test_a_whole_batch_needs_no_count(edition: Edition) -> None:
    assert_same_gradient(edition, lambda: within(lambda task, z, batch: 0.5 * task(z, batch)))


def test_a_task_that_is_replaced_below_is_seen() -> None:
    first, second = labelled(), labelled()
    module = Uncertain(first)
    assert counted(module) is first
    module.task = second
    assert counted(module) is second
    module.count = lambda batch: 1  # type: ignore[assignment]
    assert counted(module) is module


def test_what_is_known_of_a_task_can_be_handed_on() -> None:
    assert facts(Uncertain(labelled()))["count"]({"x": torch.ones(2, 1), "labels": torch.tensor([1, -100])}) == 1
    assert facts(lambda z, b: z.mean()) == {"couples_samples": False}
    assert not couples_samples(Uncertain(labelled()))
    assert couples_samples(Both(labelled(), labelled(couples_samples=True)))
