"""SIGTERM and Ctrl-C during training: the run finishes its step, and then stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "StoppedError", "stop_requests"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """Training was stopped by a signal; the message names the last step.

    Attributes:
        exit_code: 128 plus the signal's number, the exit code that shells report.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """Signal handler that records the first signal.

    Attributes:
        signal: Number of the signal; 0 before one arrives.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; a second Ctrl-C raises KeyboardInterrupt at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record SIGTERM (SLURM, pre-emption) and SIGINT (Ctrl-C) in the block, instead of ending the process.

    Only the main thread can handle signals; in another thread the block records none.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
