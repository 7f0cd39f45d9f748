"""Processes of tests, forked from a server that has imported all packages."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mtl_accum.measure import start_processes_with
from mtl_accum.testing import ForkServer, inherited_fork_server

FORK_SERVER = ForkServer("tests.preloaded", folder=Path(__file__).resolve().parents[1])


class Forked:
    """A function that runs in a forked process as a program would, with warnings as errors.

    Has the methods of `subprocess.Popen` that the tests use.

    Args:
        function: Function that can be imported.
        args: Its arguments.
        cwd: Folder in which it runs.
        environment: Variables to set.
    """

    def __init__(
        self, function: Callable[..., Any], *args: Any, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        settings = (function, args, cwd, self._out, self._err, environment or {})
        self._process = FORK_SERVER.Process(target=_run, args=settings)
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process, and of its group of processes."""
        number: int = self._process.pid
        return number

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while the process runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process and those that it has started."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end and return standard output and standard error.

        Raises:
            TimeoutError: The process takes longer; it has been killed.
        """
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"took over {timeout} seconds")
        out, err = (path.read_text() for path in (self._out, self._err))
        return out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Kill what is left, and remove the files of its output."""
        self.kill()
        self._process.join()
        self._folder.cleanup()


def _run(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    cwd: Path,
    out: Path,
    err: Path,
    environment: Mapping[str, str],
) -> None:
    os.setsid()  # a group of processes, which a signal can reach as a whole
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
    for path, number in ((Path(os.devnull), 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))  # as `python -m` does
    with start_processes_with(inherited_fork_server()):
        try:
            function(*args)
        finally:
            atexit._run_exitfuncs()  # a process of multiprocessing ends without them
