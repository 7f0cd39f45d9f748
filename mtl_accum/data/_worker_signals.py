"""Signals in the worker processes of a loader: Ctrl-C and SIGTERM are left to the training process."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue

__all__ = ["IgnoreSignals", "block_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C and pre-emption reach all processes of a group


@contextmanager
def block_signals() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in worker processes started inside the block, until `IgnoreSignals` has run there.

    Without this, a signal that arrives while a worker starts would end it.
    """
    if sys.platform == "win32":  # signals reach a single process
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class IgnoreSignals:
    """Initializer of worker processes that makes them ignore Ctrl-C and SIGTERM while the training process runs.

    The training process finishes its step after a signal, and may need its workers for that. When it exits,
    multiprocessing ends the workers with SIGTERM and waits for them. From that moment on SIGTERM ends a worker.
    """

    def __init__(self) -> None:
        self._exiting = RawValue("b", 0)  # shared with the workers
        atexit.register(self._allow_termination)

    def __call__(self, worker: int) -> None:
        """Set the signal handlers of a worker process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if self._exiting.value else None)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _allow_termination(self) -> None:
        self._exiting.value = 1
