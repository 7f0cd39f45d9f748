"""Where a job writes, and how it was started; knows no torch, since `job=report` needs none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """Where a job writes, and what a report says about how it was started."""

    folder: Path
    command: str
    config: dict[str, Any]
