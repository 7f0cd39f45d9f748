"""Writing a run's files, all of them whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mtl_accum.report._markdown import markdown
from mtl_accum.report._picture import picture

__all__ = ["VERSION", "write"]

VERSION = 1


def write(
    content: Mapping[str, Any], folder: Path, others: Mapping[str, Callable[[Path], object]] | None = None
) -> dict[str, Any]:
    """Write `report.json`, `report.md`, `memory.png` and other files into a folder.

    Everything is written aside first and then moved in, `report.json` last: where it is, all is there, and an
    interrupted run leaves nothing that is half written.

    Args:
        content: the report without its version.
        folder: must exist.
        others: by file name, what writes a file to a path.

    Returns:
        The report as it was written.

    Raises:
        OSError: the folder cannot be written.
    """
    report = {"version": VERSION, "kind": "run", **content}
    writers: dict[str, Callable[[Path], object]] = {
        **(others or {}),
        "memory.png": lambda path: picture(report, path),
        "report.md": lambda path: path.write_text(markdown(report), encoding="utf-8"),
        "report.json": lambda path: path.write_text(json.dumps(report, indent=1), encoding="utf-8"),
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as aside:
        for name, write_to in writers.items():
            write_to(Path(aside) / name)
        for name in writers:
            os.replace(Path(aside) / name, folder / name)
    return report
