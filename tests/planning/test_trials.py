"""Trials on the device: which candidates run, time limits, and robustness against wrong measurements."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    MultiTaskModel,
    Offloaded,
    PerTask,
    Split,
    SummedLoss,
    Task,
    plan,
)
from mtl_accum.planning import _search_in_budget, _timings, _trials
from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost
from mtl_accum.planning._formula import Estimate, Tables, estimate
from mtl_accum.planning._ranking import Candidate
from mtl_accum.planning._simplicity import in_small, kind, passes, pieces, simplicity
from mtl_accum.planning._trials import run_trials


def network(samples: int = 32, tasks: int = 6, slow: float = 0.0) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)

    class Slow(nn.Module):
        def forward(self, x: Any) -> Any:
            if len(x) < samples:
                time.sleep(slow)
            return x

    heads = {f"t{n}": Task(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 1)), nn.MSELoss(), "y") for n in range(tasks)}
    model = MultiTaskModel(nn.Sequential(nn.Linear(4, 8), Slow()), heads, "x")
    return model, {"x": torch.randn(samples, 4), "y": torch.randn(samples, 1)}


def parts(*sizes: Any, **changes: Any) -> tuple[Any, Any, Any, Any]:
    model, batch = network(*sizes, **changes)
    return model.trunk, model.tasks, batch, torch.optim.SGD(model.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("edition", "cut", "through"),
    [
        (SummedLoss(), 1, 1),
        (Split(heads_per_graph=2), 1, 1),
        (PerTask(), 1, 3),
        (Checkpointed(Split()), 1, 2),
        (Offloaded(Checkpointed(Split())), 1, 3),
        (Cached(12), 1, 2),
        (Split(head_chunks=4), 4, 1),
        (Cached(4, head_chunks=2), 3, 2),
        (Accumulated(Split(head_chunks=2), 4), 8, 1),
        (Checkpointed(Accumulated(SummedLoss(), 12)), 12, 2),
        (AsLoss(Split(head_chunks=4)), 4, 1),
        (AsLoss(Cached(4, head_chunks=2)), 3, 2),
        (AsLoss(Accumulated(SummedLoss(), 12)), 12, 2),
        (AsLoss(Checkpointed(Accumulated(SummedLoss(), 12))), 12, 3),
    ],
)
def test_the_order_from_simple_to_complex(edition: Edition, cut: int, through: int) -> None:
    assert (pieces(edition, 12), passes(edition, 3)) == (cut, through)
    assert simplicity(edition, 12, 3, 99) == (cut, through, 99)


@pytest.mark.parametrize(
    ("edition", "small"),
    [
        (Accumulated(Split(heads_per_graph=4, head_chunks=8), 16), Accumulated(Split(head_chunks=2), 2)),
        (Checkpointed(Cached(3, head_chunks=4)), Checkpointed(Cached(3, head_chunks=2))),
        (Cached(64), Cached(5)),
        (AsLoss(Split(heads_per_graph=2)), AsLoss(Split())),
        (PerTask(), PerTask()),
    ],
)
def test_a_kind_in_small(edition: Edition, small: Edition) -> None:
    assert in_small(edition, 64, 5) == small
    assert kind(edition, 64) == kind(small, 5)


def candidates(editions: Any, seconds: Any) -> list[Any]:
    return [Candidate(edition, Estimate(1000, "", at, 1)) for edition, at in zip(editions, seconds, strict=True)]


def test_what_is_simple_takes_part_whatever_the_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    editions = [Accumulated(SummedLoss(), 16), Accumulated(Split(), 2), Split(), SummedLoss(), PerTask(), Cached(16)]
    trials = run_trials(parts(), candidates(editions, [0.001, 5.0, 6.0, 7.0, 8.0, 9.0]), 2**40, 32)
    assert {trial.edition for trial in trials} >= {SummedLoss(), Split(), Accumulated(Split(), 2), PerTask()}
    assert trials[0].edition in (SummedLoss(), Split())
    assert all(trial.fits for trial in trials)


def test_what_does_not_fit_is_not_taken_for_simple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    pair = candidates([Accumulated(SummedLoss(), 16), SummedLoss()], [1.0, 2.0])
    monkeypatch.setattr(
        _trials, "_measure_peak", lambda step, limit: (2**30 if step.edition == SummedLoss() else 1, "")
    )
    first, last = run_trials(parts(), pair, 2**20, 32)
    assert (first.edition, last.edition, last.fits) == (Accumulated(SummedLoss(), 16), SummedLoss(), False)


def test_a_trial_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    monkeypatch.setattr(_trials, "_LEAST_LIMIT", 0.1)
    editions = [Accumulated(SummedLoss(), 32), SummedLoss()]
    began = time.perf_counter()
    trials = run_trials(parts(slow=0.2), candidates(editions, [1.0, 2.0]), 2**40, 32)
    assert time.perf_counter() - began < 5.0  # 32 pieces of 0.2 s
    assert [(trial.edition, trial.fits, trial.note[:8]) for trial in trials] == [
        (SummedLoss(), True, ""),
        (Accumulated(SummedLoss(), 32), False, "given up"),
    ]


@pytest.mark.parametrize("per_graph", [0.0003, 0.012, 5.0])
def test_one_wrong_measurement_makes_no_time_negative_and_no_choice_absurd(
    monkeypatch: pytest.MonkeyPatch, per_graph: float
) -> None:
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    monkeypatch.setattr(_search_in_budget, "time_graph", lambda *_: per_graph)
    model, batch = network()
    planned = plan(model.trunk, model.tasks, batch, budget="100MiB")
    assert all(schedule.time_ratio >= 0 for schedule in planned.front)
    ran = [trial.edition for trial in planned.trials]
    assert {SummedLoss(), Split()} <= set(ran)
    assert pieces(planned.edition, 32) == 1


def test_no_phase_takes_less_than_no_time() -> None:
    part = PartCost(forward_seconds=1e-4, backward_seconds=2e-4)
    some = NetworkCosts(part, part, {"a": part, "b": part, "c": part}, 0.0, 0.0, PartCost())
    tables = Tables(0.0, 0.0, {"": CostTable([(8, some)])}, per_graph=1.0)
    for edition in (SummedLoss(), Split(heads_per_graph=2), Accumulated(SummedLoss(), 8)):
        assert estimate(edition, tables, 8).seconds > 0
