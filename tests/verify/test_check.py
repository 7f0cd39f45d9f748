"""`check` finds by numbers what nobody declared, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Accumulated, Edition, PerTask, Split, SummedLoss, check
from mtl_accum.testing import Workload, images, vector
from mtl_accum.verify import Sandbox, parameters_reached


def test_modules_are_checked_in_float64_too(capsys: pytest.CaptureFixture[str]) -> None:
    load = images(torch.float32)
    before = [load.gradients(), load.buffers(), torch.get_rng_state()]
    found = check(load.trunk, load.tasks, load.batch)
    assert found.passed()
    assert set(found.editions) == {"per_task", "split", "cached", "accumulated"}
    for edition in found.editions.values():
        assert edition.own.dtype == torch.float32 and edition.own.gradients <= 1e-5
        assert edition.double.dtype == torch.float64 and edition.double.gradients <= 1e-12
        assert edition.own.random and edition.double.random
    assert found.idle == ()
    assert "| split | float64 |" in capsys.readouterr().out
    assert load.gradients() == before[0]
    assert torch.equal(before[2], torch.get_rng_state())


def test_closures_have_a_dash_and_the_reason() -> None:
    load = vector(torch.float32)
    found = check(load.trunk, load.tasks, load.batch, editions={"split": Split()})
    assert found.editions["split"].double is None
    assert "closure's modules cannot be copied" in found.editions["split"].without
    assert "| split | float64 | – |" in str(found)
    assert found.passed()


def with_task(task: Any) -> Workload:
    load = vector()
    return Workload(load.trunk, {**load.tasks, "odd": task}, load.batch, load.modules)


def contrastive(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


class OwnBatchNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + 1e-3)


IN_TWO = {"accumulated": Accumulated(Split(), micro_batches=2)}


@pytest.mark.parametrize(
    ("load", "editions", "reason"),
    [
        (with_task(contrastive), IN_TWO, "loss of 'odd' over pieces .*couples samples .declare couples_samples=True"),
        (vector(norm=OwnBatchNorm()), IN_TWO, "uses batch statistics"),
        (
            with_task(lambda z, b: z.mean() * random.SystemRandom().random()),
            {"s": Split()},
            "SummedLoss differs from itself: randomness",
        ),
    ],
    ids=["contrastive", "own batch statistics", "randomness outside torch"],
)
def test_what_nobody_declared_is_found(load: Workload, editions: dict[str, Any], reason: str) -> None:
    found = check(load.trunk, load.tasks, load.batch, editions=editions)
    assert not found.passed()
    (edition,) = found.editions.values()
    assert edition.own.parameter in edition.reason
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(edition.reason)
    assert "DIFFERS" in str(found)


def test_a_refusal_is_a_row() -> None:
    load = vector(norm=nn.BatchNorm1d(9))
    found = check(load.trunk, load.tasks, load.batch, editions=IN_TWO)
    assert found.passed()
    assert "BatchNorm1d" in found.editions["accumulated"].refusal
    assert "refused" in str(found)


class Frozen:
    """An edition that forgets the trunk, as a peer library did."""

    def forward_backward(
        self, trunk: Callable[..., Any] | nn.Module, tasks: dict[str, nn.Module] | nn.Module, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return SummedLoss().forward_backward(lambda b: trunk(b).detach(), tasks, batch)


def test_missing_gradients_are_an_error_and_idle_parameters_a_note() -> None:
    load = vector()
    spare = nn.Linear(2, 2).double()
    trunk = load.trunk
    found = check(lambda b: trunk(b) + 0 * len(spare.weight), load.tasks, load.batch, editions={"frozen": Frozen()})
    assert not found.passed()
    assert len(found.editions["frozen"].missing) == 4
    assert "which SummedLoss gives one" in found.editions["frozen"].reason
    assert {name.rpartition(".")[2] for name in found.idle} == {"weight", "bias"}
    assert "no gradient from SummedLoss either" in str(found)


def test_parameters_reached_without_a_backward() -> None:
    load = vector(tasks=2)
    load.modules[0][0].requires_grad_(False)
    reached = parameters_reached(load.trunk, {"t0": load.tasks["t0"]}, load.batch)
    got = load.modules
    SummedLoss().forward_backward(load.trunk, {"t0": load.tasks["t0"]}, load.batch)
    assert reached == {id(parameter) for parameter in got.parameters() if parameter.grad is not None}


def test_batches_that_cannot_be_cut_are_checked_whole() -> None:
    weight = nn.Parameter(torch.ones(3))
    module = nn.Module()
    module.weight = weight
    found = check(
        lambda b: module.weight * b["x"], {"t": lambda z, b: z.sum()}, {"x": torch.ones(3), "s": torch.ones(())}
    )
    assert set(found.editions) == {"per_task", "split"}
    assert found.passed()


def test_the_first_training_step_looks_too() -> None:
    from mtl_accum import MultiTaskModel, Task
    from mtl_accum.training.loop import TrainConfig, Training

    def train(edition: Edition, **parts: Any) -> None:
        torch.manual_seed(0)
        model = MultiTaskModel(nn.Linear(3, 4), {"a": Task(nn.Linear(4, 1), nn.MSELoss(), "y")}, "x")
        for name, part in parts.items():
            setattr(model, name, part)
        batches = [{"x": torch.randn(8, 3), "y": torch.randn(8, 1)}]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Training(model, batches, [edition], optimizer, TrainConfig(epochs=1), device=torch.device("cpu")).run()

    train(PerTask())
    with pytest.raises(RuntimeError, match="no gradient for trunk.module.weight, trunk.module.bias, which SummedLoss"):
        train(Frozen())
    with pytest.warns(UserWarning, match="no task's loss depends on spare.weight, spare.bias: no gradient"):
        train(PerTask(), spare=nn.Linear(2, 2))


def test_parameters_that_share_a_name_are_all_seen() -> None:
    def wrapped(net: nn.Module) -> Callable[..., Any]:
        return lambda x: net(x)

    first, second, third = (nn.Linear(3, 3).double() for _ in range(3))
    one, two = wrapped(first), wrapped(second)
    network = Sandbox(lambda b: two(one(b)), {"trunk": lambda z, b: third(z).mean()}, torch.ones(2, 3).double())
    assert len(network.parameters) == 6
    assert {id(p) for p in network.parameters.values()} == {
        id(p) for m in (first, second, third) for p in m.parameters()
    }
