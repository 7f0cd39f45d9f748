"""What the studies say of the machine, and the processes that they start."""

from __future__ import annotations

import os
from typing import Any

import pytest

from experiments import load
from experiments.forked import forked
from mtl_accum.measure._fresh_process import MeasurementError


def test_a_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert load.noise(0.5, 2.0).startswith("The machine was quiet")
    assert load.noise(0.5, 9.0).startswith("**The machine was busy**")
    assert load.noise(None, 1.0) == "How busy the machine was is not known."
    assert load.loads() is None or load.loads() >= 0


class Subject:
    def process(self) -> Any:
        return os.getpid()

    def broken(self) -> None:
        raise ValueError("it broke")


@pytest.mark.slow  # a case like it is quick
def test_a_process_of_its_own() -> None:
    with forked(Subject()) as first, forked(Subject()) as second:
        numbers = {os.getpid(), first.call("process"), second.call("process")}
        assert len(numbers) == 3
        assert first.call("process") in numbers, "the same one until the end"
        with pytest.raises(MeasurementError, match="ValueError: it broke"):
            first.call("broken")
