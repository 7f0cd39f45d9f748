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

from mtl_accum.measure._parcel import Parcel

__all__ = ["FreshProcess", "MeasurementError", "start_processes_with"]

_contexts: list[BaseContext] = []  # of `start_processes_with`, the innermost last


@contextmanager
def start_processes_with(context: BaseContext) -> Iterator[None]:
    """Start every `FreshProcess` from a multiprocessing context that has been chosen once, in place of spawning it.

    Args:
        context: Context that starts the processes of the block.
    """
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.pop()


class MeasurementError(RuntimeError):
    """What was asked of a fresh process did not work there; the message is the reason."""


class FreshProcess:
    """Sends an object to a new process and calls its methods there.

    Nothing of this process's memory is inherited: no allocator pool, no warm caches, no loaded kernels.

    Args:
        subject: any object that pickles; its classes must be importable.
        context: of multiprocessing, that starts the process; None takes that of `start_processes_with`, or spawns it.

    Raises:
        TypeError: the subject does not pickle; names the fix.
        OSError: the temporary folder has no room for it.
    """

    def __init__(self, subject: Any, context: Any = None) -> None:
        try:
            parcel = Parcel(subject)
        except OSError:
            raise
        except Exception as error:  # whatever the objects' own pickling raises
            raise TypeError(
                f"cannot be sent to a fresh process ({error}); pass modules, or functions defined at the top of a "
                "file, or build=: an importable function that returns (trunk, tasks, batch, optimizer)"
            ) from error
        if context is None:
            context = _contexts[-1] if _contexts else multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, parcel, _Settings()), daemon=True)
        with _known_start_method():
            self._process.start()
        parcel.close()
        theirs.close()  # so that the death of the process ends our wait

    def call(self, method: str) -> Any:
        """Run a method of the subject over there and wait for what it returns.

        Raises:
            MeasurementError: it raised, or the process died.
        """
        try:
            self._connection.send(method)
            worked, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise MeasurementError(_cause_of_death(self._process.exitcode)) from None
        if not worked:
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
    """A worker of joblib has a start method of its own, which a fresh process would be told and not know."""
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
    """What of torch's global settings changes figures; taken here, applied there."""

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


def _serve(connection: Connection, parcel: Parcel, settings: _Settings) -> NoReturn:
    with suppress(OSError):  # nobody listens any more: the process that asked was killed
        _answer(connection, parcel, settings)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the interpreter would take a second to free what the system frees at once


def _answer(connection: Connection, parcel: Parcel, settings: _Settings) -> None:
    settings.apply()
    subject: Any = None
    while True:
        try:
            method = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if subject is None:  # not before: a failure to load belongs to the first call
                subject = parcel.unpack()
            answer = True, getattr(subject, method)()
        except (Exception, KeyboardInterrupt) as error:
            answer = False, f"{type(error).__name__}: {error}"
        _send(connection, answer)


def _send(connection: Connection, answer: tuple[bool, Any]) -> None:
    try:
        connection.send(answer)
    except OSError:
        raise
    except Exception as error:  # whatever the answer's own pickling raises
        connection.send((False, f"{type(error).__name__}: {error}"))


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode == -9:
        return "the process was killed (signal 9), most likely by the system for want of memory"
    return (
        f"the process ended with exit code {exitcode}; it imports the script that started it, which must not run "
        "anything then: put the call under if __name__ == '__main__':"
    )
