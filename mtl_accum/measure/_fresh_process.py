"""A fresh process that holds one object and runs its methods on request."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, NoReturn, Self

import torch

from mtl_accum.measure._unnamed_file import UnnamedFile

__all__ = ["FreshProcess", "MeasurementError", "start_processes_with"]

_contexts: list[BaseContext] = []  # contexts of `start_processes_with`, the innermost last


@contextmanager
def start_processes_with(context: BaseContext) -> Iterator[None]:
    """Start every `FreshProcess` in the block from a multiprocessing context, in place of spawning it.

    Args:
        context: Context that starts the processes.
    """
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.pop()


class MeasurementError(RuntimeError):
    """A call in a fresh process failed; the message is the reason."""


class FreshProcess:
    """A new process with a copy of an object, whose methods can be called there.

    The process inherits nothing of this process's memory: no allocator pool, no warm caches, no loaded kernels.

    Args:
        subject: Object that pickles; its classes must be importable.
        context: Context of multiprocessing that starts the process; None for that of `start_processes_with`, or else
            a spawned process.

    Raises:
        TypeError: The subject does not pickle; the message names the fix.
        OSError: The temporary folder has no room for it.
    """

    def __init__(self, subject: Any, context: Any = None) -> None:
        try:
            file = UnnamedFile(subject)
        except OSError:
            raise
        except Exception as error:  # an object's own pickling may raise anything
            raise TypeError(
                f"cannot be sent to a fresh process ({error}); pass modules, or functions defined at the top of a "
                "file, or build=: an importable function that returns (trunk, tasks, batch, optimizer)"
            ) from error
        if context is None:
            context = _contexts[-1] if _contexts else multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, file, _Settings()), daemon=True)
        with _known_start_method():
            self._process.start()
        file.close()
        theirs.close()  # otherwise `recv` would wait for ever after the death of the process

    def call(self, method: str) -> Any:
        """Call a method of the subject in the process, and return its result.

        Args:
            method: Name of the method; it takes no arguments.

        Raises:
            MeasurementError: The method raised, or the process died.
        """
        try:
            self._connection.send(method)
            succeeded, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise MeasurementError(_cause_of_death(self._process.exitcode)) from None
        if not succeeded:
            raise MeasurementError(value)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End the process, at once after an exception."""
        if kind is not None:
            self._process.terminate()
        self._connection.close()
        self._process.join()


@contextmanager
def _known_start_method() -> Iterator[None]:
    """Set a standard start method in the block: a worker of joblib has its own, which a fresh process cannot set."""
    before = multiprocessing.get_start_method(allow_none=True)
    if before is None or before in multiprocessing.get_all_start_methods():
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


class _Settings:
    """Torch's global settings that change measurements: read in one process, applied in another."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self.dtype = torch.get_default_dtype()
        self.matmul = torch.get_float32_matmul_precision()
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.benchmark = torch.backends.cudnn.benchmark

    def apply(self) -> None:
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.matmul)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = self.benchmark


def _serve(connection: Connection, file: UnnamedFile, settings: _Settings) -> NoReturn:
    with suppress(OSError):  # the calling process was killed
        _serve_calls(connection, file, settings)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the interpreter would take a second to free what the system frees at once


def _serve_calls(connection: Connection, file: UnnamedFile, settings: _Settings) -> None:
    settings.apply()
    subject: Any = None
    while True:
        try:
            method = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if subject is None:  # unpacked here, so a failure to load is that of the first call
                subject = file.unpack()
            result = True, getattr(subject, method)()
        except (Exception, KeyboardInterrupt) as error:
            result = False, f"{type(error).__name__}: {error}"
        _send(connection, result)


def _send(connection: Connection, result: tuple[bool, Any]) -> None:
    try:
        connection.send(result)
    except OSError:
        raise
    except Exception as error:  # a result's own pickling may raise anything
        connection.send((False, f"{type(error).__name__}: {error}"))


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode == -9:
        return "the process was killed (signal 9), most likely by the system because memory ran out"
    return (
        f"the process ended with exit code {exitcode}; it imports the script that started it, and that "
        "import must not run anything: put the call under if __name__ == '__main__':"
    )
