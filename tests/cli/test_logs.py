"""A log file on a full disk is one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mtl_accum._logs import complain_once


class Full(logging.Handler):
    def emit(self, record: Any) -> None:
        try:
            raise self.error  # type: ignore[attr-defined]
        except Exception:
            self.handleError(record)


@pytest.fixture
def handler() -> Iterator[Any]:
    handler = Full()
    root = logging.getLogger()
    root.addHandler(handler)
    handlers = [(each, each.handleError) for each in root.handlers]
    yield handler
    for each, before in handlers:
        each.handleError = before
    root.removeHandler(handler)


def test_a_full_disk_is_reported_once(handler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    complain_once()
    handler.error = OSError(28, "No space left on device")
    for number in range(5):
        logging.getLogger("mtl_accum").warning("record %d", number)
    said = capsys.readouterr().err
    assert said == "mtl_accum: the log Full cannot be written ([Errno 28] No space left on device); the run continues\n"


def test_other_errors_are_shown_as_ever(handler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    complain_once()
    handler.error = TypeError("not all arguments converted")
    logging.getLogger("mtl_accum").warning("record")
    assert "--- Logging error ---" in capsys.readouterr().err
