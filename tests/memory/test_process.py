"""The process meter, in a fresh process, against a block of known size."""

from __future__ import annotations

import atexit
import sys

import pytest
import torch

from mtl_accum.memory import ProcessMeter
from mtl_accum.memory._fresh import FreshProcess, MeasurementError

MIB = 2**20
linux = pytest.mark.skipif(ProcessMeter.unavailable() is not None, reason=f"ProcessMeter: {ProcessMeter.unavailable()}")


class Allocate:
    """Takes 64 MiB twice, one after the other: the peak is one of them."""

    def tune(self):
        ProcessMeter.tune()

    def weigh(self):
        torch.ones(64 * MIB // 4).sum()  # warm: threads and kernels exist
        with ProcessMeter() as meter:
            for _ in range(2):
                torch.ones(64 * MIB // 4)
        return meter.result()

    def fail(self):
        raise MemoryError("64 GiB are too many")

    def die(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


@linux
def test_peak_of_known_blocks():
    with FreshProcess(Allocate()) as process:
        process.call("tune")
        result = process.call("weigh")
    assert result.peak_bytes - result.base_bytes == pytest.approx(64 * MIB, rel=0.03)
    assert result.end_bytes - result.base_bytes < 4 * MIB
    assert result.process_bytes == result.peak_bytes
    assert result.caveats == ()


@linux
def test_untuned_is_a_caveat():
    with FreshProcess(Allocate()) as process:
        assert "not tuned" in process.call("weigh").caveats[0]


def test_what_goes_wrong_there_is_told_here():
    with FreshProcess(Allocate()) as process:
        with pytest.raises(MeasurementError, match="MemoryError: 64 GiB are too many"):
            process.call("fail")
        if sys.platform == "linux":
            with pytest.raises(MeasurementError, match="killed .signal 9., most likely by the system for want of"):
                process.call("die")


class SaysGoodbye:
    def __init__(self, path):
        self.path = path

    def register(self):
        atexit.register(self.path.write_text, "goodbye")


def test_exit_functions_run_there(tmp_path):
    with FreshProcess(SaysGoodbye(tmp_path / "said")) as process:
        process.call("register")
    assert (tmp_path / "said").read_text() == "goodbye"


def test_what_cannot_be_sent_names_the_fix():
    with pytest.raises(TypeError, match="cannot be sent to a fresh process .* build="):
        FreshProcess(lambda: None)


def test_says_why_it_is_not_available(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ProcessMeter.unavailable() == "needs Linux's /proc, found darwin"
    with pytest.raises(RuntimeError, match="found darwin"), ProcessMeter():
        pass
