"""The command line in a process of its own, small enough for a test."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.processes import Forked

SMALL = [
    "model.trunk.width=8",
    "model.trunk.depth=2",
    "model.tasks.digit.head.depth=1",
    "model.tasks.denoise.head.depth=1",
    "data.batch_size=500",
    "epochs=1",
    "compare.steps=1",
]
SUMMED_ONLY = ["~edition@compare.editions.per_task", "~edition@compare.editions.split"]  # fewer fresh processes
_SECONDS = 300
_MEMORY = 12 << 30  # address space: a network of a billion channels is to fail at once


def mtl_accum(
    *arguments: str,
    cwd: Path,
    python: str | None = None,
    building_only: bool = False,
    old_names: bool = False,
    seconds: int = _SECONDS,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m mtl_accum ...` to its end, warnings being errors.

    Args:
        arguments: Arguments of the command line.
        cwd: Folder in which it runs.
        python: Interpreter, which then starts from nothing; None forks a process that has imported all packages.
        building_only: Whether to end where editions would be measured, and to have little memory.
        old_names: Whether names that have moved may be used, which warns; of a process that is forked.
        seconds: Seconds until it takes too long.
        environment: Variables to set; with PYTHONPATH among them the interpreter starts from nothing, too.
    """
    if python or "PYTHONPATH" in environment:
        settings = _from_nothing(arguments, cwd, python or sys.executable, environment)
        return subprocess.run(**settings, timeout=seconds, check=False)
    with Forked(_command, arguments, building_only, old_names, cwd=cwd, environment=environment) as process:
        out, err = process.communicate(seconds)
        return subprocess.CompletedProcess(arguments, process.returncode or 0, out, err)


def slow(cells: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return cells of a table as parameters that the quick tier leaves out."""
    return [pytest.param(*cell, marks=pytest.mark.slow) for cell in cells]


def forked(*arguments: str, cwd: Path) -> Forked:
    """Start `python -m mtl_accum ...` in a forked process, for signals."""
    return Forked(_command, arguments, cwd=cwd)


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `python -m mtl_accum ...` from nothing, for signals."""
    return subprocess.Popen(**_from_nothing(arguments, cwd, sys.executable, {}))


def _command(arguments: Sequence[str], building_only: bool = False, old_names: bool = False) -> None:
    sys.argv = ["mtl_accum", *arguments]
    if building_only:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        import_module("mtl_accum.jobs._comparison").compare = _stop  # type: ignore[attr-defined]
    if old_names:
        warnings.filterwarnings("default", "mtl_accum.* is now mtl_accum", FutureWarning)
    runpy.run_module("mtl_accum", run_name="__main__", alter_sys=True)


def _stop(*_: object, **__: object) -> NoReturn:
    """End in place of measuring."""
    sys.exit()


def _from_nothing(arguments: Sequence[str], cwd: Path, python: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a subprocess in a group of processes of its own."""
    return {
        "args": [python, "-W", "error", "-m", "mtl_accum", *arguments],
        "cwd": cwd,
        "env": {**os.environ, "PYTHONWARNINGS": "", **environment},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
        "preexec_fn": _listen,
    }


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell inherits that it is ignored
