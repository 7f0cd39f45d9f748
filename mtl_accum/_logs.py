"""Log files that cannot be written: one line on the terminal in place of a traceback for every record."""

from __future__ import annotations

import logging
import sys

__all__ = ["complain_once"]


def complain_once() -> None:
    """Make each handler of the root logger report an operating system error once; the run continues without the log."""
    for handler in logging.getLogger().handlers:
        handler.handleError = _Complaint(handler)  # type: ignore[method-assign]


class _Complaint:
    """Replacement for `Handler.handleError`, which prints some forty lines per record."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handle_other_error = handler.handleError
        self._name = getattr(handler, "baseFilename", type(handler).__name__)
        self._reported = False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._handle_other_error(record)
        elif not self._reported:
            self._reported = True
            print(f"mtl_accum: the log {self._name} cannot be written ({error}); the run continues", file=sys.stderr)
