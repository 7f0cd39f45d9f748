"""Models that are not textbook: absent tasks, frozen parts, shared parameters, odd heads, exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Edition, PerTask, Split, SummedLoss, Task
from mtl_accum.editions import modules_of
from mtl_accum.testing import SAMPLES, Workload, assert_same_gradient, run_edition, vector
from mtl_accum.verify._difference import gradient_difference

EDITIONS = [PerTask(), Split()]
ALL = [SummedLoss(), *EDITIONS]
every_edition = pytest.mark.parametrize("edition", ALL, ids=repr)
others = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


def with_task(name: str, task: Callable[..., Any]) -> Workload:
    load = vector()
    return Workload(load.trunk, {**load.tasks, name: task(load)}, load.batch, load.modules)


def frozen(which: int) -> Workload:
    load = vector()
    load.modules[which].requires_grad_(False)
    return load


def shared_by_heads() -> Workload:
    load = vector(tasks=2)
    load.modules[1]["t1"].first = load.modules[1]["t0"].first
    return load


def shared_by_trunk_and_head() -> Workload:
    load = vector()
    tied = load.modules[0][0]  # Linear(6, 9): reads the batch once more
    return Workload(
        load.trunk,
        {**load.tasks, "tied": lambda z, b: tied(b["x"]).square().mean()},
        load.batch,
        load.modules,
    )


def unused_representation() -> Workload:
    load = vector()
    trunk = load.modules[0]
    tasks = {name: lambda z, b, task=task: task(z[0], b) for name, task in load.tasks.items()}
    return Workload(lambda b: (trunk(b["x"]), trunk[0](b["x"])), tasks, load.batch, load.modules)


AWKWARD = {
    "head without parameters": lambda: with_task("norm", lambda load: lambda z, b: z.square().mean()),
    "head that reads the batch": lambda: with_task("input", lambda load: lambda z, b: (z[:, :6] * b["x"]).mean()),
    "head that requires no gradient": lambda: with_task("none", lambda load: lambda z, b: z.detach().mean()),
    "head that reads z twice": lambda: with_task("twice", lambda load: lambda z, b: (z * z.flip(0)).mean()),
    "two losses from one head": lambda: with_task("again", lambda load: load.tasks["t0"]),
    "frozen trunk": lambda: frozen(0),
    "frozen heads": lambda: frozen(1),
    "parameter shared by heads": shared_by_heads,
    "parameter shared by trunk and head": shared_by_trunk_and_head,
    "representation that nobody uses": unused_representation,
}


@others
@pytest.mark.parametrize("case", AWKWARD, ids=str)
def test_awkward_model(edition: Edition, case: str) -> None:
    assert_same_gradient(edition, AWKWARD[case])


@every_edition
def test_nothing_requires_a_gradient(edition: Edition) -> None:
    load = vector()
    load.modules.requires_grad_(False)
    assert set(run_edition(edition, load).gradients.values()) == {None}


def absent(kind: str) -> Workload:
    load = vector(tasks=2)
    heads = nn.ModuleDict({"here": nn.Linear(8, 3), "away": nn.Linear(8, 3)}).double()
    target = {"key": "label", "callable": lambda b: b.get("label"), "KeyError": lambda b: b["label"]}.get(kind, "y0")
    count = (lambda b: torch.zeros((), dtype=torch.int64)) if kind == "count" else None
    tasks = {
        "away": Task(heads["away"], nn.CrossEntropyLoss(), target, count=count),
        "here": Task(heads["here"], lambda out, y: F.mse_loss(out[:, :2], y), "y0"),
    }
    return Workload(load.trunk, tasks, load.batch, nn.ModuleList([load.modules[0], heads]))


@every_edition
@pytest.mark.parametrize("kind", ["key", "callable", "KeyError", "count"])
def test_absent_task(edition: Edition, kind: str) -> None:
    load = absent(kind)
    load.tasks["away"].register_forward_pre_hook(lambda *_: pytest.fail("an absent task was called"))
    left = run_edition(edition, load)
    assert left.losses["away"] == 0
    assert left.losses["here"] > 0
    assert left.gradients["1.away.weight"] is None
    assert left.gradients["1.here.weight"] is not None
    assert_same_gradient(edition, lambda: absent(kind))


@every_edition
def test_every_task_absent_runs_nothing(edition: Edition) -> None:
    load = absent("key")
    del load.tasks["here"]  # type: ignore[attr-defined]
    trunk = lambda batch: pytest.fail("the trunk ran for nothing")
    with pytest.warns(UserWarning, match="no task is present in this batch"):
        assert edition.forward_backward(trunk, load.tasks, load.batch) == {"away": torch.zeros(())}


@every_edition
def test_counts_are_read_in_one_transfer(edition: Edition, monkeypatch: pytest.MonkeyPatch) -> None:
    load = vector()
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self.shape) or tolist(self))
    for task in load.tasks.values():
        task.count = lambda batch: torch.tensor(SAMPLES)
    run_edition(edition, load)
    assert reads == [(len(load.tasks),)]


@every_edition
@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (lambda b: -1, ValueError, "task 't0': count must be a finite number of at least 0, found -1"),
        (lambda b: float("nan"), ValueError, "found nan"),
        (lambda b: torch.ones(3), TypeError, "task 't0': count.* shape .3,.; sum it"),
        (lambda b: "7", TypeError, "task 't0': count.* must be a number or a 0-dim tensor, found str"),
    ],
)
def test_bad_count(edition: Edition, count: Callable[..., Any], error: type[Any], message: str) -> None:
    load = vector()
    load.tasks["t0"].count = count
    with pytest.raises(error, match=message):
        run_edition(edition, load)


@every_edition
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            lambda z, b: z.square(),
            ValueError,
            r"task 'bad': expected a 0-dim loss, found one of shape \(7, 8\)",
        ),
        (lambda z, b: z.mean().reshape(1), ValueError, r"task 'bad': .* shape \(1,\)"),
        (lambda z, b: 1.0, TypeError, "task 'bad': expected a 0-dim tensor as loss, found float"),
    ],
)
def test_bad_loss(edition: Edition, loss: Callable[..., Any], error: type[Any], message: str) -> None:
    with pytest.raises(error, match=message):
        run_edition(edition, with_task("bad", lambda load: loss))


def test_in_place_head_is_explained() -> None:
    with pytest.raises(RuntimeError, match=r"task 'relu': the head starts with an in-place operation .*out-of-place"):
        run_edition(Split(), with_task("relu", lambda load: lambda z, b: F.relu_(z).mean()))


@others
def test_reading_another_tasks_graph_is_explained(edition: Edition) -> None:
    load = vector()
    seen = {}

    def first(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        seen["out"] = load.modules[1]["t0"].last(torch.tanh(load.modules[1]["t0"].first(z)))
        return seen["out"].square().mean()

    tasks = {"first": first, "second": lambda z, batch: seen["out"].exp().mean()}
    with pytest.raises(RuntimeError, match="task 'second': it reads what another task, or the trunk"):
        edition.forward_backward(load.trunk, tasks, load.batch)


@pytest.mark.parametrize("where", ["forward", "backward"])
@every_edition
def test_buffers_are_put_back_after_an_exception(edition: Edition, where: str) -> None:
    load = vector(norm=nn.BatchNorm1d(9))
    before = load.buffers()

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor | None:
            if where == "forward":
                raise RuntimeError("broken head")
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> None:
            raise RuntimeError("broken head")

    tasks = {**load.tasks, "broken": lambda z, b: Broken.apply(z).mean()}
    with pytest.raises(RuntimeError, match="broken head"):
        edition.forward_backward(load.trunk, tasks, load.batch)
    for name, buffer in load.buffers().items():
        assert torch.equal(buffer, before[name]), name


class LateBuffer(nn.Module):
    """A buffer that is None until the first forward, and matters from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor | None:
        first = self.scale is None
        self.scale = torch.full((), 0.5, dtype=x.dtype) if first else self.scale * 0.5
        return x if first else x * self.scale


class TwoNames(nn.Module):
    """One tensor that is a buffer of two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Module(), nn.Module()
        for module in (self.a, self.b):
            module.register_buffer("scale", torch.ones((), dtype=torch.float64) if module is self.a else self.a.scale)

    def forward(self, x: Tensor) -> Tensor | None:
        y = x * self.b.scale.clone()
        self.a.scale.mul_(0.5)
        return y * self.b.scale.clone()


@pytest.mark.parametrize("module", [LateBuffer, TwoNames])
def test_odd_buffers_are_replayed(module: type[Any]) -> None:
    def losses(edition: Edition) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        load = vector(norm=module())
        torch.manual_seed(5)
        return edition.forward_backward(load.trunk, load.tasks, load.batch), load.gradients(), load.buffers()  # type: ignore[return-value]

    expected, found = losses(SummedLoss()), losses(PerTask())
    assert gradient_difference(found[1], expected[1]) <= 1e-12
    assert gradient_difference(found[0], expected[0]) <= 1e-12
    assert gradient_difference(found[2], expected[2]) <= 1e-12


class Hides(nn.Module):
    """A module in a plain list, which `modules()` does not see."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.hidden = [norm]

    def forward(self, x: Tensor) -> Tensor | None:
        return self.hidden[0](x)


def test_modules_in_plain_attributes_are_replayed_and_restored() -> None:
    norm = nn.BatchNorm1d(9).double()
    load = vector(norm=Hides(norm))
    PerTask().forward_backward(load.trunk, load.tasks, load.batch)
    assert norm.num_batches_tracked == 1
    with pytest.raises(ValueError, match="0-dim loss"):
        Split().forward_backward(load.trunk, {**load.tasks, "bad": lambda z, b: z}, load.batch)
    assert norm.num_batches_tracked == 1


def test_a_foreign_error_is_raised_as_it_is() -> None:
    def fails(z: Tensor, batch: dict[str, Tensor]) -> None:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError, match="too much") as caught:
        run_edition(Split(), with_task("big", lambda load: fails))
    assert caught.value.__cause__ is None


@every_edition
def test_gradients_must_be_enabled(edition: Edition) -> None:
    load = vector()
    with torch.no_grad(), pytest.raises(RuntimeError, match="expected gradients to be enabled"):
        edition.forward_backward(load.trunk, load.tasks, load.batch)


def test_a_huge_list_behind_a_task_costs_nothing() -> None:
    numbers = [[float(i)] * 1000 for i in range(4000)]
    load = vector()
    modules = modules_of(lambda z, b: z.mean() * numbers[0][0] * len(list(load.tasks)))
    assert any(module in modules for module in load.modules)


def test_loss_keeps_no_map_alive() -> None:
    """The 0-dim result of a mean can hold the storage of its element-wise map; what is returned must not."""
    load = vector()
    for loss in Split().forward_backward(load.trunk, load.tasks, load.batch).values():
        assert loss.untyped_storage().nbytes() == loss.element_size()
