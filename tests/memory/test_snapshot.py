"""Snapshots, read by PyTorch's own tools."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.cuda import _memory_viz

from mtl_accum import Split, SummedLoss, predict
from mtl_accum.memory import TrainingStep, write_snapshot
from mtl_accum.testing import many_heads


@pytest.fixture(params=["measured", "predicted"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """The file of a step and its record."""
    model, batch = many_heads()
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "step.pickle"
    if request.param == "predicted":
        arguments = {"optimizer": optimizer, "edition": Split(), "device": "cpu", "snapshot": path}
        return path, predict(model.trunk, model.tasks, batch, **arguments)
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, SummedLoss())
    step()
    with step.tensor_meter(trace=True) as meter:
        step()
    write_snapshot(meter.events, path)
    return path, meter.result()


def test_its_highest_point_is_the_peak(snapshot: tuple[Path, Any]) -> None:
    path, result = snapshot
    data = pickle.loads(path.read_bytes())
    live = highest = 0
    for entry in data["device_traces"][0]:
        live += {"alloc": 1, "free_completed": -1}.get(entry["action"], 0) * entry["size"]
        highest = max(highest, live)
    assert highest == result.peak_bytes
    assert live == result.end_bytes == data["segments"][0]["allocated_size"]
    blocks = data["segments"][0]["blocks"]
    assert sum(block["size"] for block in blocks) == data["segments"][0]["total_size"]
    assert sum(block["requested_size"] for block in blocks if block["state"] == "active_allocated") == result.end_bytes


def test_pytorchs_tools_read_it(snapshot: tuple[Path, Any]) -> None:
    data = pickle.loads(snapshot[0].read_bytes())
    assert "TOTAL MEM" in _memory_viz.trace(data)
    assert "segments: 1" in _memory_viz.segsum(data)
    assert "<html" in _memory_viz.trace_plot(data)
    assert "head t3 forward" in {frame["filename"] for entry in data["device_traces"][0] for frame in entry["frames"]}
