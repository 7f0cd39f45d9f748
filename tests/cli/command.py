"""The command line in a process of its own, small enough for a test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

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
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # two tests run side by side
_SECONDS = 300


def mtl_accum(
    *arguments: str,
    cwd: Path,
    python: str | None = None,
    building_only: bool = False,
    old_names: bool = False,
    seconds: int = _SECONDS,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """`python -m mtl_accum ...`, warnings being errors.

    Args:
        arguments: of the command line.
        cwd: where it runs.
        python: the interpreter, which then starts from nothing; None forks the command line's process from one that
            has imported all packages, which is quicker.
        building_only: end where editions would be measured; see `tests/cli/zygote.py`.
        old_names: whether names that have moved may be used, which warns; of a process that is forked.
        seconds: until it takes too long.
        environment: variables; with any of them it starts from nothing, too.
    """
    if python or environment:
        how = _from_nothing(arguments, cwd, python or sys.executable, environment)
        return subprocess.run(**how, timeout=seconds, check=False)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("out", "err")}
        request = {"arguments": arguments, "cwd": str(cwd), **{name: str(path) for name, path in paths.items()}}
        request |= {"building_only": building_only, "old_names": old_names}
        code = _ask(_zygote(), json.dumps(request), seconds)
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in paths.values()))


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The same, running, from nothing: for signals."""
    return subprocess.Popen(**_from_nothing(arguments, cwd, sys.executable, {}))


def _from_nothing(arguments: Sequence[str], cwd: Path, python: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """In a group of processes of its own."""
    return {
        "args": [python, "-W", "error", "-m", "mtl_accum", *arguments],
        "cwd": cwd,
        "env": {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "", **environment},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
        "preexec_fn": _listen,
    }


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits a deaf ear


@cache
def _zygote() -> subprocess.Popen[str]:
    """See `tests/cli/zygote.py`; it ends with this process, whose end of the pipe then closes."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.cli.zygote"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, **ONE_THREAD, "PYTHONWARNINGS": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ask(zygote: subprocess.Popen[str], request: str, seconds: int) -> int:
    assert zygote.stdin
    assert zygote.stdout
    print(request, file=zygote.stdin, flush=True)
    answered, _, _ = select.select([zygote.stdout], [], [], seconds)
    if not answered:
        os.killpg(zygote.pid, signal.SIGKILL)  # with what it has forked
        _zygote.cache_clear()
        raise TimeoutError(f"took over {seconds} seconds: {request}")
    return int(zygote.stdout.readline())
