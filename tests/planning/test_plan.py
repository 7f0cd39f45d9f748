"""The plan: it fits, it is exact, it leaves no trace, and it says so where nothing fits."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, Offloaded, Split, SummedLoss, plan
from mtl_accum.memory import TrainingStep
from mtl_accum.planning import BudgetError, _direct_prediction, _timings, _trials, format_edition, schedules_of
from mtl_accum.prediction import predict
from tests.everything import everything
from tests.planning.networks import network, planned

MIB = 2**20
STAGES = ["measuring costs", "checking exactness", "timing the parts", "running trials"]


def measured(model: Any, batch: Any, optimizer: Any, edition: Edition) -> Any:
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, edition)
    step()  # makes the optimizer's state
    with step.tensor_meter() as meter:
        step()
    return meter.result().peak_bytes


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    monkeypatch.setattr(_trials, "_LEAST_ROUNDS", 2)


@pytest.mark.parametrize("share", [0.2, pytest.param(0.6, marks=pytest.mark.slow)])
def test_it_fits_and_the_prediction_is_what_is_measured(share: float) -> None:
    parts = network(tasks=2)
    nothing_fits = planned(*parts, "1B")
    low, high = nothing_fits.peak.peak_bytes, nothing_fits.summed.peak_bytes
    budget = round(low + share * (high - low))
    found = planned(*parts, budget)
    assert found.budget.size == budget
    assert found.timed_by == "timings of the parts"
    peak = measured(*parts, found.edition)
    assert peak == found.peak.peak_bytes == sum(vars(found.peak.categories).values()) <= budget
    assert found.trials[0].edition == found.edition
    assert found.trials[0].peak_bytes == peak
    assert all(trial.fits for trial in found.trials)
    assert found.chosen.peak_bytes == pytest.approx(peak, rel=0.001)
    assert found.spent.keys() == {
        "measuring costs",
        "checking exactness",
        "timing the parts",
        "running trials",
        "predicting",
    }


@pytest.mark.parametrize(
    ("norm", "trained"),
    [(nn.GroupNorm, 1), pytest.param(nn.GroupNorm, 0, marks=pytest.mark.slow), (nn.BatchNorm2d, 0)],
)
def test_it_leaves_no_trace(norm: Any, trained: int) -> None:
    model, batch, optimizer = network(norm, tasks=2)
    for _ in range(trained):
        TrainingStep(model.trunk, model.tasks, batch, optimizer, Split())()
    before = everything(model, optimizer)
    planned(model, batch, optimizer, "4MiB")
    after = everything(model, optimizer)
    assert len(before) == len(after)
    assert all(map(torch.equal, before, after))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_exact_is_no_candidate() -> None:
    found = planned(*network(nn.BatchNorm2d, tasks=2), "1GiB")
    assert set(found.left_out) == {"trunk chunks", "Accumulated", "Offloaded"}
    assert "trunk.module.2 (BatchNorm2d) uses batch statistics" in found.left_out["Accumulated"]
    chosen = [schedule.edition for schedule in found.front]
    assert not any(isinstance(edition, Accumulated) for edition in chosen)
    assert not any(isinstance(edition, Cached) and edition.chunk_size < 24 for edition in chosen)


def test_nothing_fits() -> None:
    parts = network(nn.BatchNorm2d)
    found = planned(*parts, "1MiB")
    assert (found.chosen, found.trials, found.timed_by) == (None, (), "operation counts")
    with pytest.raises(BudgetError) as error:
        _ = found.edition
    text = str(error.value)
    assert text.startswith("budget: expected at least ")
    for words in ("found 1.0 MiB (1MiB)", "parameters and buffers", "optimizer state", "one sample's largest head (t"):
        assert words in text
    assert "to_group_norm(model)" in text
    assert "a batch of " in text
    assert found.peak.peak_bytes == pytest.approx(measured(*parts, _smallest(found)), rel=1e-3)  # by the formula
    assert "predicting" not in found.spent
    with pytest.raises(ValueError, match="expected a schedule under 'chosen', found none"):
        schedules_of(found.as_dict())


def test_parameters_alone_are_too_many() -> None:
    found = planned(*network(), "20KiB")
    assert found.advice[0].startswith("no batch is small enough: parameters, gradients and optimizer state alone")
    assert found.advice[1].startswith("an optimizer with less state")
    assert all(row.samples == 0 for row in found.largest_batch)


def test_the_front_what_takes_over_and_the_stages() -> None:
    reported: list[str] = []
    found = planned(*network(), "1GiB", on_progress=reported.append)
    assert reported[:4] == STAGES
    assert set(reported) == {*STAGES, "predicting"}
    peaks = [schedule.peak_bytes for schedule in found.front]
    times = [schedule.time_ratio for schedule in found.front]
    assert peaks == sorted(peaks, reverse=True)
    assert times == sorted(times)
    ladder = [found.chosen.peak_bytes, *(schedule.peak_bytes for schedule in found.fallbacks)]
    assert len(ladder) > 1  # how many depends on what was fastest
    assert 0.9 * ladder[-1] <= min(peaks)
    assert all(after <= 0.9 * before for before, after in pairwise(ladder))
    written = json.loads(json.dumps(found.as_dict()))
    assert schedules_of(written) == [found.edition, *(schedule.edition for schedule in found.fallbacks)]


def test_the_largest_batch() -> None:
    budget = 6 * MIB
    found = planned(*network(tasks=2), budget)
    rows = {type(row.edition).__name__: row for row in found.largest_batch}
    assert set(rows) == {"SummedLoss", "PerTask", "Split", "Cached", "Accumulated", "Checkpointed"}
    for kind in ("SummedLoss", "PerTask", "Split"):
        model, batch, optimizer = network(samples=rows[kind].samples, tasks=2)
        fits, over = (
            predict(model.trunk, model.tasks, b, optimizer=optimizer, edition=rows[kind].edition, device="cpu")
            for b in (batch, {name: torch.cat([x, x[:1]]) for name, x in batch.items()})
        )
        assert fits.peak_bytes <= 1.001 * budget
        assert over.peak_bytes >= 0.999 * budget
    assert rows["SummedLoss"].samples < rows["Split"].samples < rows["Accumulated"].samples


def test_for_a_gpu_that_is_not_here() -> None:
    found = planned(*network(), "66MiB", device="cuda")
    assert (found.timed_by, found.trials, found.device) == ("operation counts", (), "cuda")
    assert found.peak.peak_bytes <= found.budget.size
    assert found.peak.categories.workspaces in (0, 64 * MIB)
    assert any(isinstance(schedule.edition, Offloaded) for schedule in found.front)
    with pytest.raises(ValueError, match="needs the memory of cuda, which was not found here; give a size"):
        planned(*network(), "auto", device="cuda")


def test_a_network_that_is_nowhere_yet() -> None:
    def build() -> Any:
        return _parts(*network(samples=64))

    found = plan(None, None, None, build=build, budget="8MiB", device="cpu")
    assert (found.timed_by, found.samples) == ("operation counts", 64)
    assert found.peak.peak_bytes <= 8 * MIB
    with torch.device("meta"):
        model, batch, optimizer = network()
    assert planned(model, batch, optimizer, "66MiB").device == "cuda"


def test_one_that_does_not_fit_after_all_is_said_and_the_next_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, first = _trials._measure_peak, []

    def too_much_for_the_first(step: Any, limit: Any) -> Any:
        first.append(step.edition)
        return (2**40, "") if len(first) == 1 else measure(step, limit)

    monkeypatch.setattr(_trials, "_measure_peak", too_much_for_the_first)
    found = planned(*network(), "1GiB")
    failed = found.trials[-1]
    assert (failed.edition, failed.peak_bytes, failed.fits, failed.step_seconds) == (first[0], 2**40, False, [])
    assert found.edition != first[0]
    assert first[0] not in schedules_of(found.as_dict())
    assert "does not fit" in str(found)


class TooMany(nn.Module):
    """A device with room for so many samples, as far as tensors with data can tell; pieces take long, however small."""

    def __init__(self, module: nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, FakeTensor):
            time.sleep(0.005)
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.module(x)


@pytest.mark.slow  # a case like it is quick
def test_memory_runs_out_in_the_trial() -> None:
    model, batch, optimizer = network()
    model.trunk = _with(model.trunk, 7)
    found = planned(model, batch, optimizer, "1GiB")
    assert not found.trials[-1].fits
    assert found.trials[-1].peak_bytes is None
    assert isinstance(found.edition, Accumulated | Cached | Checkpointed)
    found.edition.forward_backward(model.trunk, model.tasks, batch)
    assert "ran out of memory" in str(found)


def test_other_errors_pass() -> None:
    model, batch, optimizer = network()

    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            if not isinstance(x, FakeTensor):
                raise RuntimeError("broken")
            return x

    model.trunk.module.append(Broken())
    before = everything(model, optimizer)
    with pytest.raises(RuntimeError, match="broken"):
        planned(model, batch, optimizer, "1GiB")
    assert all(map(torch.equal, before, everything(model, optimizer)))


def test_where_a_direct_prediction_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_direct_prediction, "PATIENCE", 0.0)
    found = planned(*network(), "4MiB", device="cpu")
    assert found.peak.categories is None
    assert "by the formula" in found.peak.caveats[0]
    assert found.peak.peak_bytes == found.chosen.peak_bytes


def test_a_batch_that_cannot_be_cut() -> None:
    model, batch, optimizer = network(tasks=2)
    found = planned(model, {**batch, "scale": torch.ones(())}, optimizer, "1GiB")
    assert found.samples == 1
    assert "batch['scale']: to be cut, expected" in found.left_out["Cached"]
    assert all("Accumulated" not in format_edition(s.edition) for s in found.front)


def test_an_absent_task_is_none() -> None:
    model, batch, optimizer = network(tasks=2)
    model.tasks["t1"].target = lambda batch: batch.get("nowhere")
    found = planned(model, batch, optimizer, "3MiB")
    assert found.peak.peak_bytes == measured(model, batch, optimizer, found.edition)


def test_one_sample_and_one_task() -> None:
    found = planned(*network(samples=1, tasks=1), "1GiB")
    assert isinstance(found.edition, SummedLoss | Split | Checkpointed)
    assert found.samples == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": "6GIB"}, ValueError, "budget must be a size such as 6GiB"),
        ({"budget": 1.5}, TypeError, "budget must be a number of bytes"),
        ({"device": "tpu"}, ValueError, "device must be cpu or cuda, found 'tpu'"),
    ],
)
def test_what_is_no_budget_and_no_device(changes: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        planned(*network(), **{"budget": "1GiB", **changes})


def _smallest(found: Any) -> Any:
    return min(found.front, key=lambda schedule: schedule.peak_bytes).edition


def _parts(model: Any, batch: Any, optimizer: Any) -> tuple[Any, Any, Any, Any]:
    return model.trunk, model.tasks, batch, optimizer


def _with(trunk: Any, most: Any) -> Any:
    trunk.module = TooMany(trunk.module, most)
    return trunk
