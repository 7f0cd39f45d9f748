"""Progress where there is no terminal: a line in the log now and then, and no more."""

from __future__ import annotations

import logging

import pytest

from mtl_accum.training.callbacks import ProgressDisplay, _progress
from tests.training.runs import make


def test_a_line_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 7))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(now)))  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO, logger="mtl_accum"), ProgressDisplay() as progress:
        callback = progress.training(15)
        monkeypatch.setattr(callback._bar, "disable", True)  # type: ignore[attr-defined]
        make(callbacks=[callback]).run()
    lines = [record.message for record in caplog.records if record.name.startswith("mtl_accum")]
    assert [line.partition(":")[0] for line in lines] == [
        "step 5, epoch 1 of 3",
        "step 10, epoch 2 of 3",
        "step 15, epoch 3 of 3",
    ]
    assert "a " in lines[-1]
