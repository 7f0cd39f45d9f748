"""The survey: its operation counts, what it says of a batch that cannot be cut, and that it stays with two sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Cached, Checkpointed, MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.planning._formula import estimate
from mtl_accum.planning._operations import OperationCounter
from mtl_accum.planning._survey import survey
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


def surveyed(model: Any, batch: Any, variants: Any = ("", "checkpointed"), optimizer: Any = None) -> Any:
    with DryRun((model.trunk, model.tasks, batch, optimizer), cuda=False) as rehearsal:
        return survey(rehearsal, variants)


def test_times_are_in_the_order_that_one_expects() -> None:
    model, batch = transformer(width=128, depth=4, length=64, samples=64)
    found = surveyed(model, batch, optimizer=torch.optim.AdamW(model.parameters()))
    seconds = {
        edition: estimate(edition, found.tables, found.samples).seconds
        for edition in (SummedLoss(), Split(), PerTask(), Cached(16), Checkpointed(Split()))
    }
    assert seconds[SummedLoss()] == pytest.approx(seconds[Split()])  # what a graph costs is measured, not counted
    assert seconds[Split()] < 0.95 * min(seconds[Cached(16)], seconds[Checkpointed(Split())])
    assert max(seconds[Cached(16)], seconds[Checkpointed(Split())]) < seconds[PerTask()]


def test_the_batch_counts_with_its_samples() -> None:
    model, batch = transformer(samples=24)
    found = surveyed(model, batch, ("",))
    nbytes = sum(tensor.nbytes for tensor in batch.values())
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert found.tables.inputs * 24 == nbytes
    assert found.tables.base == parameters


def test_a_batch_that_cannot_be_cut_is_surveyed_whole() -> None:
    model = MultiTaskModel(nn.Linear(30, 40), {"a": Task(nn.Linear(40, 1), nn.MSELoss(), "y")}, "x")
    batch = {"x": torch.randn(900, 30), "y": torch.randn(900, 1), "scale": torch.ones(())}
    found = surveyed(model, batch, ("",))
    assert found.samples == 1
    assert "batch['scale']" in found.uncuttable
    peak = estimate(Split(), found.tables, 1).peak_bytes
    with DryRun((model.trunk, model.tasks, batch, None), cuda=False) as rehearsal:
        assert peak == pytest.approx(rehearsal.step(Split()).result().peak_bytes, rel=1e-3)


def test_a_representation_that_cannot_be_cut_says_so() -> None:
    class Mean(nn.Module):
        def forward(self, x: Any) -> Tensor:
            return x.mean(0, keepdim=True)

    model = MultiTaskModel(nn.Sequential(nn.Linear(3, 4), Mean()), {"a": Task(nn.Linear(4, 1), _first, "y")}, "x")
    found = surveyed(model, {"x": torch.randn(9, 3), "y": torch.randn(9, 1)}, ("",))
    assert found.uncuttable == "representation: found 1 samples of 9"


def _first(out: Any, y: Any) -> Tensor:
    return (out - y[:1]).square().mean()
