"""Folder, command and configuration of a job; imports no torch, because the `report` job runs without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One start of a job.

    Attributes:
        folder: Folder that the job writes into.
        command: Command line that started the job, for its report.
        config: Resolved configuration, as plain values.
    """

    folder: Path
    command: str
    config: dict[str, Any]
