"""Warnings with the user's line, at any depth of nested editions."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn_caller"]


def warn_caller(message: str) -> None:
    """Warn at the innermost line that belongs to neither this package nor torch."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _package(frame) in ("mtl_accum", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
