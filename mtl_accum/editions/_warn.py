"""Warnings that point at the user's line, however many editions are around each other."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(message: str) -> None:
    """Warn at the innermost line that is not of this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mtl_accum":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
