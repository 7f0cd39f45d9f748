"""The studies' own code, on networks that take a moment."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch

from experiments.cuda import run as cuda
from experiments.planner import run as planner
from mtl_accum.planning import _timings
from mtl_accum.testing import convolutional


def test_the_table_of_the_cuda_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU and in one mode: the allocator's columns are empty, all else is there."""
    monkeypatch.setattr(cuda, "MODES", ["fp32"])
    found = cuda.measure(torch.device("cpu"), {"many_heads": {"heads": 2, "width": 16, "samples": 8}}, steps=1)
    rows = cuda.table(found, "tensors")
    assert [row[:3] for row in rows[1:5]] == [
        ["many_heads", "fp32", name] for name in ("summed", "per_task", "split", "cached")
    ]
    assert all(len(row) == len(cuda.COLUMNS) for row in rows)
    assert {row[5] for row in rows[1:]} == {"+0.0 %"}, "for the CPU the prediction is exact"
    assert {row[6] for row in rows[1:]} == {"–"}
    assert not any(row["failure"] for row in found)
    assert cuda.notes([{**found[0], "failure": "it broke"}])[0] == "many_heads fp32 summed: it broke"


@pytest.mark.slow
def test_the_study_of_the_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network that takes a moment; times are whatever they are."""
    for name, value in {"ROUNDS": 1, "FINAL_ROUNDS": 2, "FINALISTS": 2, "keep_freed_memory": lambda: None}.items():
        monkeypatch.setattr(planner, name, value)
    monkeypatch.setattr(_timings, "PATIENCE", 0.0)
    monkeypatch.setitem(planner.MODELS, "tiny", lambda: convolutional(samples=4))  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    subject = planner.Subject("tiny")
    try:
        count, seconds = subject.measure()
    finally:
        torch.set_num_threads(threads)
    cells = subject.plans()
    assert (count, seconds > 0) == (len(subject.candidates), True)
    assert [cell.share for cell in cells] == [*planner.SHARES, None]  # type: ignore[attr-defined]
    assert [miss for cell in cells for miss in cell.misses() if "slower" not in miss] == []
    assert all(len(planner.row(cell)) == len(planner.HEADING) for cell in cells)
    assert cells[-1].refused
    assert all(cell.budget >= cell.measured == cell.predicted > 0 for cell in cells[:-1])


def test_what_counts_as_a_miss_of_the_planner() -> None:
    hit = {"chosen": "Split()", "predicted": 100, "measured": 99, "time": 1.04, "fastest": "F()", "fastest_time": 1.0}
    assert planner.Cell("m", 0.5, 100, **hit).misses() == []
    wrong = {**hit, "measured": 104, "time": 1.2}
    assert planner.Cell("m", 0.5, 100, **wrong, noise=0.1).misses() == [
        "over the budget by 0.00 MiB",
        "predicted -3.8%",
        "20.0% slower than F(), noise 10.0%",
    ]
    assert planner.Cell("m", 0.5, 100, **{**hit, "time": 1.2}, noise=0.25).misses() == []
    assert planner.Cell("m", 0.5, 100, refused="x").misses() == ["nothing was chosen: x"]
    assert planner.Cell("m", None, 100, chosen="Split()").misses() == ["Split() was chosen where nothing fits"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "experiments.cuda.run")
    with pytest.raises(SystemExit, match="expected a CUDA device, found none here"):
        runpy.run_module("experiments.cuda.run", run_name="__main__")
