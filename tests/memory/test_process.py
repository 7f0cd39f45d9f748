"""Process meter, in a fresh process, against a block of known size."""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_accum.measure._fresh_process import FreshProcess, MeasurementError
from mtl_accum.memory import ProcessMeter
from tests.processes import FORK_SERVER

MIB = 2**20
linux = pytest.mark.skipif(ProcessMeter.unavailable() is not None, reason=f"ProcessMeter: {ProcessMeter.unavailable()}")


class Allocate:
    """Allocator of 64 MiB twice, one after the other; the peak is one of them."""

    def tune(self) -> None:
        ProcessMeter.tune()

    def weigh(self) -> Any:
        torch.ones(64 * MIB // 4).sum()  # warm: threads and kernels exist
        with ProcessMeter() as meter:
            for _ in range(2):
                torch.ones(64 * MIB // 4)
        return meter.result()

    def fail(self) -> None:
        raise MemoryError("64 GiB are too many")

    def die(self) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


@linux
def test_peak_of_known_blocks() -> None:
    with FreshProcess(Allocate()) as process:
        process.call("tune")
        result = process.call("weigh")
    assert result.peak_bytes - result.base_bytes == pytest.approx(64 * MIB, rel=0.03)
    assert result.end_bytes - result.base_bytes < 4 * MIB
    assert result.process_bytes == result.peak_bytes
    assert result.caveats == ()


@linux
def test_untuned_is_a_caveat() -> None:
    with FreshProcess(Allocate()) as process:
        assert "not tuned" in process.call("weigh").caveats[0]


def test_errors_of_the_process_are_raised_here() -> None:
    with FreshProcess(Allocate()) as process:
        with pytest.raises(MeasurementError, match="MemoryError: 64 GiB are too many"):
            process.call("fail")
        if sys.platform == "linux":
            with pytest.raises(MeasurementError, match="killed .signal 9., most likely by the system because"):
                process.call("die")


class SaysGoodbye:
    def __init__(self, path: Path) -> None:
        self.path = path

    def register(self) -> None:
        atexit.register(self.path.write_text, "goodbye")


def test_exit_functions_run_there(tmp_path: Path) -> None:
    with FreshProcess(SaysGoodbye(tmp_path / "said")) as process:
        process.call("register")
    assert (tmp_path / "said").read_text() == "goodbye"


def test_the_error_for_unpicklable_parts_names_the_fix() -> None:
    with pytest.raises(TypeError, match="cannot be sent to a fresh process .* build="):
        FreshProcess(lambda: None)


class Answers:
    """Object whose pickle is larger than a pipe."""

    def __init__(self) -> None:
        self.rows = torch.arange(1 << 20)

    def total(self) -> int:
        return int(self.rows.sum())

    def hooks(self) -> Callable[..., Any]:
        return lambda: None

    def fails(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("context", [multiprocessing.get_context("spawn"), FORK_SERVER], ids=["spawn", "fork server"])
def test_a_kill_leaves_no_named_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FreshProcess(Answers(), context) as process:
        assert not [path for path in tmp_path.iterdir() if not path.name.startswith("pymp-")]  # multiprocessing's own
        assert process.call("total") == (1 << 20) * ((1 << 20) - 1) // 2
        with pytest.raises(MeasurementError, match="lambda|local object"):
            process.call("hooks")
        with pytest.raises(MeasurementError, match="No space left on device"):
            process.call("fails")
        assert process.call("total"), "goes on after all that"


@linux
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_process_leaves_nothing_in_the_temporary_folder(tmp_path: Path, number: Any) -> None:
    (tmp_path / "temporary").mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "from mtl_accum.measure._fresh_process import FreshProcess\n"
        "from tests.memory.test_process import Answers\n"
        "if __name__ == '__main__':\n"
        "    with FreshProcess(Answers()) as process:\n"
        "        print(process._process.pid, flush=True)\n"
        "        process.call('total')\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.stderr.read() == "", "the pipe ends when the child ends, and it ends quietly"
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(OSError, match=rf"temporary folder {tmp_path} \(No space left on device\); .* TMPDIR"):
        FreshProcess(Answers())


def test_the_reason_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ProcessMeter.unavailable() == "needs Linux's /proc, found darwin"
    with pytest.raises(RuntimeError, match="found darwin"), ProcessMeter():
        pass
