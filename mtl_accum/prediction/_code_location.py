"""Location of an error in the user's own code."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

__all__ = ["code_location"]

_OTHER_CODE = (Path(torch.__file__).parent, Path(__file__).parents[1])


def code_location(error: BaseException) -> str:
    """Return the innermost line outside of torch and this package, as `file, line N: code`; "" if there is none."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while error.__cause__ is not None:  # an edition may have raised it again with an explanation
        error = error.__cause__
        frames += traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.suffix == ".py" and not any(path.is_relative_to(folder) for folder in _OTHER_CODE):
            return f"{path.name}, line {frame.lineno}: {frame.line}"
    return ""
