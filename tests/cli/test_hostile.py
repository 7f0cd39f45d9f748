"""Overrides that nobody means: no traceback, no hang, one line that names the key, and nothing meaningless accepted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.hostile import fault, hostile, run

SEED = int(os.environ.get("MTL_ACCUM_SEED", "16"))
COUNT, PARTS = 320, 8


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in range(2, 10))])
def test_a_few_overrides(tmp_path: Path, part: Any) -> None:
    judge(tmp_path, SEED, part * 4, 4)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_many_overrides(tmp_path: Path, part: int) -> None:
    each = COUNT // PARTS
    judge(tmp_path, SEED + 1, part * each, each)


def judge(folder: Path, seed: Any, first: Any, count: Any) -> None:
    cases = list(hostile(seed, first + count))[first:]
    faults, accepted = [], 0
    for number, case in enumerate(cases):
        done = run(case, folder / str(number))
        accepted += done.returncode == 0
        if wrong := fault(case, done):
            faults.append(f"{wrong}: {' '.join(case.arguments)}\n{done.stderr[-2000:]}")
    print(f"seed {seed}, {count} overrides from {first}: {accepted} accepted, {count - accepted} refused")
    assert not faults, "\n".join(faults)
