"""Writing of reports: all files of a run complete, or none."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtl_accum.report._escape import code
from mtl_accum.report._markdown import markdown, metrics_table
from mtl_accum.report._page import html
from mtl_accum.report._pictures import pictures
from mtl_accum.report._plan_tables import plan_markdown
from mtl_accum.report._read import VERSION
from mtl_accum.report._table import plain_table

__all__ = ["timestamp", "write", "write_evaluation", "write_failure", "write_plan", "write_whole"]


def write(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write `report.json`, `report.md`, `report.html` and the folder `pictures` into a folder.

    Args:
        content: Report without its version; its kind is "run" unless it is given.
        folder: Existing folder.

    Returns:
        The report as it was written.

    Raises:
        OSError: The folder cannot be written.
    """
    report: dict[str, Any] = _finite({"version": VERSION, "kind": "run", **content})
    write_whole(
        folder,
        {
            **{f"pictures/{name}": draw for name, draw in pictures(report).items()},
            "report.html": _text(html(report)),
            "report.md": _text(markdown(report)),
            "report.json": _json(report),
        },
    )
    return report


def write_plan(content: Mapping[str, Any], folder: Path) -> None:
    """Write `plan.json` and `plan.md` into a folder.

    Args:
        content: Command and configuration, and the plan itself under "plan".
        folder: Existing folder.

    Raises:
        OSError: The folder cannot be written.
    """
    report: dict[str, Any] = _finite({"version": VERSION, "kind": "plan", **content})
    page = "\n".join(["# mtl_accum plan", "", code(report["command"]), "", *plan_markdown(report["plan"])])
    write_whole(folder, {"plan.md": _text(page), "plan.json": _json(report)})


def write_evaluation(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write `evaluation.json` and `evaluation.md` into a folder.

    Args:
        content: Command and configuration, the path of the weights, and the results under "metrics".
        folder: Existing folder.

    Returns:
        The report as it was written.

    Raises:
        OSError: The folder cannot be written.
    """
    report: dict[str, Any] = _finite({"version": VERSION, "kind": "evaluation", **content})
    table = plain_table(metrics_table(report["metrics"]))
    page = "\n".join(["# mtl_accum evaluation", "", code(report["command"]), "", *table, ""])
    write_whole(folder, {"evaluation.md": _text(page), "evaluation.json": _json(report)})
    return report


def write_failure(content: Mapping[str, Any], folder: Path) -> None:
    """Write `failure.json` into the folder of a failed job of a sweep.

    Args:
        content: Command, configuration, and the reason of the failure.
        folder: Existing folder.

    Raises:
        OSError: The folder cannot be written.
    """
    report: dict[str, Any] = _finite({"version": VERSION, "kind": "failure", **content})
    write_whole(folder, {"failure.json": _json(report)})


def timestamp() -> str:
    """Return the current time in the format of reports."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_whole(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write all files into a temporary folder, then move them in: an interruption leaves no file half written.

    Args:
        folder: Existing folder.
        writers: Functions by path in the folder that write to the path they are given; files are moved in this order.

    Raises:
        OSError: The folder cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        for name, write_to in writers.items():
            (Path(temporary) / name).parent.mkdir(exist_ok=True)
            with _file_in_errors(folder / name):
                write_to(Path(temporary) / name)
        for name in writers:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(Path(temporary) / name, folder / name)


@contextmanager
def _file_in_errors(path: Path) -> Iterator[None]:
    """Add the file to an error of the system, which has none where the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error.strerror or error})") from error


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def _json(report: Mapping[str, Any]) -> Callable[[Path], object]:
    return _text(json.dumps(report, indent=1))


def _finite(value: Any) -> Any:
    """Return a value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
