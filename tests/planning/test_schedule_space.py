"""Candidates: every one runs and is exact, what would not is left out by name, and overrides make it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Checkpointed, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.planning._schedule_space import HEAD_CHUNKS, TRUNK_CHUNKS, candidates, left_out
from mtl_accum.testing import SITUATIONS, assert_same_gradient


def reasons(name: str, **changes: Any) -> tuple[Any, Any]:
    load = SITUATIONS[name].make(torch.float64)
    return load, left_out(load.trunk, load.tasks, load.batch, **{"on_gpu": True, **changes})


NOTHING = "no random numbers"
STATISTICS = r"\(BatchNorm1d\) uses batch statistics"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (NOTHING, {}),
        ("BatchNorm in the trunk", {TRUNK_CHUNKS: STATISTICS, "Accumulated": STATISTICS}),
        ("BatchNorm in a head", {HEAD_CHUNKS: STATISTICS, "Accumulated": STATISTICS}),
    ],
)
def test_what_is_left_out(name: Any, expected: Any) -> None:
    _, found = reasons(name)
    assert set(found) == set(expected)
    for what, why in expected.items():
        with pytest.raises(ValueError, match=why):
            raise ValueError(found[what])


def test_a_task_that_couples_samples() -> None:
    load, _ = reasons(NOTHING)
    first, *_ = load.tasks
    load.tasks[first].couples_samples = True
    found = left_out(load.trunk, load.tasks, load.batch, on_gpu=True)
    assert set(found) == {"Accumulated", HEAD_CHUNKS}
    assert f"task '{first}' declares couples_samples=True" in found["Accumulated"]


def test_what_cannot_be_cut() -> None:
    load, _ = reasons(NOTHING)
    found = left_out(load.trunk, load.tasks, {**load.batch, "scale": torch.ones(())}, on_gpu=True)
    assert set(found) == {"Cached", "Accumulated", HEAD_CHUNKS}
    assert "batch['scale']: to be cut, expected" in found["Accumulated"]


def test_a_cpu_and_many_tasks() -> None:
    load, found = reasons(NOTHING, on_gpu=False)
    assert found == {"Offloaded": "Offloaded: the trunk's saved tensors are in host memory already"}
    tasks = {str(n): nn.Linear(1, 1) for n in range(9)}
    assert left_out(load.trunk, tasks, load.batch, on_gpu=True) == {
        "PerTask": "PerTask: 9 trunk passes; Split needs one, and no more memory"
    }


def test_compiled_functions() -> None:
    load, _ = reasons(NOTHING)

    def hidden(batch: Any) -> Any:
        return batch

    hidden._torchdynamo_orig_callable = None  # type: ignore[attr-defined]
    found = left_out(hidden, load.tasks, load.batch, on_gpu=True)
    assert set(found) == {"PerTask", "Cached", "Accumulated", "Checkpointed"}


def test_which_they_are() -> None:
    assert candidates(3, 2, {"Offloaded", "Checkpointed"}) == [
        SummedLoss(),
        Split(),
        Split(heads_per_graph=2),
        Split(head_chunks=2),
        Accumulated(SummedLoss(), 2),
        Accumulated(Split(), 2),
        Accumulated(Split(heads_per_graph=2), 2),
        *(Cached(size, head_chunks=count) for size in (2, 1) for count in (1, 2)),
        PerTask(),
    ]
    without = {"Cached", "Accumulated", HEAD_CHUNKS, "PerTask"}
    some = [SummedLoss(), Split()]
    checkpointed = [Checkpointed(edition) for edition in some]
    offloaded = [Offloaded(edition) for edition in (*some, *checkpointed)]
    assert candidates(1, 64, without) == [*some, *checkpointed, *offloaded]
    assert Cached(64) in candidates(2, 64, {TRUNK_CHUNKS})
    assert Cached(32) not in candidates(2, 64, {TRUNK_CHUNKS})


@pytest.mark.parametrize("name", [NOTHING, "BatchNorm in the trunk", "BatchNorm in a head"])
def test_every_one_of_them_is_exact(name: Any) -> None:
    load, found = reasons(name)
    for edition in candidates(len(load.tasks), 7, found):
        assert_same_gradient(edition, lambda: load)
