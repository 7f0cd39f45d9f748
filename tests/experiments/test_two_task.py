"""The report of the README's first command, from runs that were written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.two_task import run
from tests.report.examples import MIB, memory, report, row


def one(*seconds: float) -> dict:
    rows = [("summed", 100, seconds[0]), ("split", 60, seconds[1])]
    editions = [
        row(
            *(name, f"{name.title()}: does it"),
            memory=[memory("tensors", peak), memory("process", peak + 300)],
            step_seconds=[took, 0.9 * took, 2 * took],
            gradient_difference=0.0,
        )
        for name, peak, took in rows
    ]
    config = {"edition": {"_target_": "mtl_accum.PerTask"}}
    return {**report(), "editions": editions, "config": config}


def test_the_report_of_the_first_command(tmp_path: Path) -> None:
    run.write([one(0.1, 0.09), one(0.1, 0.12)], tmp_path)
    page, results = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "results.json").read_text())
    assert results["tables"]["editions"][2][:3] == ["split", "60.0 MiB", "0.60"]
    assert results["editions"]["split"]["peak_bytes"]["tensors"] == 60 * MIB
    assert results["editions"]["split"]["time_ratio"] == pytest.approx(0.9)
    assert results["repeated"]["time"]["split"]["high"] == pytest.approx(1.2)
    assert "| split | 0.60 to 0.60 | 0.90 to 1.20 |" in page
    assert "epochs with `PerTask`" in page
