"""One process in a run's folder; the lock ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtl_accum._lock import NAME, only_process_in
from tests.cli.command import mtl_accum

pytest.importorskip("fcntl")
HOLD = """
import os, sys, time
from pathlib import Path
from mtl_accum._lock import only_process_in
with only_process_in(Path(sys.argv[1])):
    if os.fork():
        print("holds", flush=True)
    time.sleep(600)
"""


def test_the_second_process_is_refused_and_a_killed_one_is_forgotten(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "holds\n"
        with (
            pytest.raises(ValueError, match=rf"another process is running in this folder \(process {process.pid} on"),
            only_process_in(tmp_path),
        ):
            pass
        process.kill()  # what it has forked is still alive
        process.wait(10)
        with only_process_in(tmp_path):
            assert (tmp_path / NAME).read_text().startswith(f"process {os.getpid()} on ")
        os.killpg(process.pid, signal.SIGKILL)
    with only_process_in(tmp_path):
        pass


def test_the_second_command_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with only_process_in(tmp_path / "run"):
        refused = mtl_accum("job=report", "path=nowhere", "hydra.run.dir=run", cwd=tmp_path)
        swept = mtl_accum("-m", "job=report", "path=a,b", "hydra.sweep.dir=.", "hydra.sweep.subdir=run", cwd=tmp_path)
    assert refused.returncode == 1
    assert "mtl_accum: run: another process is running in this folder (process" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert swept.returncode == 1
    assert "another process is running in this folder" in swept.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "failure.json").exists(), "that is the other process's folder"


def test_a_file_system_without_locks_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", none)
    with only_process_in(tmp_path):
        pass
    assert "this file system has no locks" in caplog.text
