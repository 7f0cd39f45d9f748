"""Measured costs of a network: operation counts, profiles, and batches that cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Cached, Checkpointed, MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.editions import phase
from mtl_accum.editions._engine import listen
from mtl_accum.memory import TrainingStep
from mtl_accum.planning._formula import estimate
from mtl_accum.planning._measure_costs import measure_costs
from mtl_accum.planning._operations import OperationCounter
from mtl_accum.planning._profile import Profile
from mtl_accum.prediction import DryRun
from mtl_accum.testing import transformer


def test_operations_are_counted_by_the_roofline() -> None:
    a, b = torch.randn(2000, 3000), torch.randn(3000, 4000)
    with OperationCounter() as counter:
        a @ b
    product = 2 * 2000 * 3000 * 4000 / 100e12
    assert counter.now() == pytest.approx(product + 5e-6)
    with OperationCounter() as counter:
        a.t()
        a.relu()
    assert counter.seconds == pytest.approx(2 * 4 * 2000 * 3000 / 2e12 + 5e-6)


def measured(model: Any, batch: Any, variants: Any = ("", "checkpointed"), optimizer: Any = None) -> Any:
    with DryRun((model.trunk, model.tasks, batch, optimizer), cuda=False) as dry_run:
        return measure_costs(dry_run, variants)


@pytest.mark.slow
def test_times_are_in_the_expected_order() -> None:
    model, batch = transformer(width=128, depth=4, length=64, samples=64)
    network = measured(model, batch, optimizer=torch.optim.AdamW(model.parameters()))
    seconds = {
        edition: estimate(edition, network.tables, network.samples).seconds
        for edition in (SummedLoss(), Split(), PerTask(), Cached(16), Checkpointed(Split()))
    }
    assert seconds[SummedLoss()] == pytest.approx(seconds[Split()])  # the cost of a graph is measured, not counted
    assert seconds[Split()] < 0.95 * min(seconds[Cached(16)], seconds[Checkpointed(Split())])
    assert max(seconds[Cached(16)], seconds[Checkpointed(Split())]) < seconds[PerTask()]


def test_the_batch_counts_with_its_samples() -> None:
    model, batch = transformer(samples=24)
    network = measured(model, batch, ("",))
    nbytes = sum(tensor.nbytes for tensor in batch.values())
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert network.tables.inputs * 24 == nbytes
    assert network.tables.base == parameters


def test_a_batch_that_cannot_be_cut_is_measured_whole() -> None:
    model = MultiTaskModel(nn.Linear(30, 40), {"a": Task(nn.Linear(40, 1), nn.MSELoss(), "y")}, "x")
    batch = {"x": torch.randn(900, 30), "y": torch.randn(900, 1), "scale": torch.ones(())}
    network = measured(model, batch, ("",))
    assert network.samples == 1
    assert "batch['scale']" in network.uncuttable
    peak = estimate(Split(), network.tables, 1).peak_bytes
    with DryRun((model.trunk, model.tasks, batch, None), cuda=False) as dry_run:
        assert peak == pytest.approx(dry_run.step(Split()).result().peak_bytes, rel=1e-3)


def test_a_representation_that_cannot_be_cut_says_so() -> None:
    class Mean(nn.Module):
        def forward(self, x: Any) -> Tensor:
            return x.mean(0, keepdim=True)

    model = MultiTaskModel(nn.Sequential(nn.Linear(3, 4), Mean()), {"a": Task(nn.Linear(4, 1), _first, "y")}, "x")
    network = measured(model, {"x": torch.randn(9, 3), "y": torch.randn(9, 1)}, ("",))
    assert network.uncuttable == "representation: found 1 samples of 9"


def _first(out: Any, y: Any) -> Tensor:
    return (out - y[:1]).square().mean()


def profiled(trunk: Any = None) -> tuple[Any, Any]:
    """Profile a network of two tasks by a clock that ticks once per reading."""
    trunk = nn.Linear(3, 4) if trunk is None else trunk
    tasks = {name: Task(nn.Linear(4, 1), nn.MSELoss(), name) for name in "ab"}
    batch = {name: torch.randn(6, size) for name, size in (("x", 3), ("a", 1), ("b", 1))}
    model = MultiTaskModel(trunk, tasks, "x")
    profile = Profile(iter(range(1000)).__next__)
    step = TrainingStep(model.trunk, model.tasks, batch, torch.optim.SGD(model.parameters(), lr=0.1), profile)
    with listen(profile), step.tensor_meter() as meter:
        step()
    return profile, meter.result().timeline


def test_a_profile_has_the_costs_of_every_part() -> None:
    profile, timeline = profiled()
    costs = profile.costs(["a", "b"], timeline)
    assert profile.ran_a_task
    assert list(costs.heads) == ["a", "b"]
    assert costs.representation == 6 * 4 * 4
    assert costs.term == costs.cotangent >= costs.representation
    assert costs.trunk.gradients == pytest.approx(4 * 3 * 4 + 4 * 4, abs=8)
    for part in (costs.trunk, *costs.heads.values()):
        assert min(part.forward_rise, part.kept, part.backward_rise, part.gradients) > 0
        assert (part.forward_seconds, part.backward_seconds) == (1, 1)
    assert (costs.blind.forward_seconds, costs.optimizer.forward_seconds) == (1, 1)
    assert costs.trunk.held_rise > 0


def test_without_a_timeline_a_profile_has_seconds_alone() -> None:
    profile, _ = profiled()
    costs = profile.costs(["a", "b"])
    assert (costs.trunk.forward_seconds, costs.trunk.forward_rise, costs.cotangent) == (1, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_of_the_representation_tells_how_its_gradient_is_accumulated(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.to(dtype)

    heads = {"a": Task(nn.Sequential(_ToFloat(), nn.Linear(64, 1)), nn.MSELoss(), "y")}
    model = MultiTaskModel(nn.Sequential(nn.Linear(3, 64), Cast()), heads, "x")
    network = measured(model, {"x": torch.randn(48, 3), "y": torch.randn(48, 1)}, ("",))
    costs = network.tables.at(48)
    assert costs.accumulates_in_float32 == (dtype is not torch.float32)
    assert costs.cotangent / costs.term == pytest.approx(1 if dtype is torch.float32 else 2, rel=0.01)


class _ToFloat(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.float()


def test_a_renamed_phase_is_an_error_and_no_cost_of_zero() -> None:
    profile, timeline = profiled()
    with pytest.raises(RuntimeError, match=r"found head b \(backward\), head b \(forward\), missing none"):
        profile.costs(["a", "c"], timeline)

    class Announcing(nn.Module):
        def forward(self, x: Any) -> Any:
            with phase("encoder", "forward"):
                return x.repeat(1, 2)[:, :4]

    profile, timeline = profiled(Announcing())
    with pytest.raises(RuntimeError, match=r"expected phases of head a, head b, trunk; found encoder \(forward\)"):
        profile.costs(["a", "b"])
    assert not Profile(float).ran_a_task
    with pytest.raises(RuntimeError, match=r"missing trunk \(forward\), trunk \(forward\)"):
        Profile(float).costs([])
