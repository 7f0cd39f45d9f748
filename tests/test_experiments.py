"""The studies' own code, on networks that take a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.cuda import run as cuda

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_of_the_cuda_study():
    """On the CPU: the allocator's columns are empty, all else is there."""
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cuda.run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "expected a CUDA device, found none here" in done.stderr
