"""Where in the user's own code an error came up."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

__all__ = ["place_of"]

_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parents[1])


def place_of(error: BaseException) -> str:
    """Return the innermost line outside of torch and this package, as `file, line N: code`; "" if there is none."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while error.__cause__ is not None:  # an edition may have added words
        error = error.__cause__
        frames += traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.suffix == ".py" and not any(path.is_relative_to(folder) for folder in _NOT_THEIRS):
            return f"{path.name}, line {frame.lineno}: {frame.line}"
    return ""
