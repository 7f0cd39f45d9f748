"""Trained weights in a run's folder, and their digest in its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from mtl_accum import report
from mtl_accum.training.checkpoint._digests import digest_of_file

__all__ = ["WEIGHTS", "check_weights", "save_weights"]

WEIGHTS = "model.safetensors"
_REPORT = "report.json"


def save_weights(model: nn.Module, folder: Path) -> dict[str, str]:
    """Write `model.safetensors` into a folder.

    Returns:
        The file's name and its SHA-256, for the report.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """

    def write(path: Path) -> None:
        try:
            save_model(model, str(path))
        except SafetensorError as error:
            raise OSError(str(error)) from error

    report.write_whole(folder, {WEIGHTS: write})
    return {"file": WEIGHTS, "sha256": digest_of_file(folder / WEIGHTS)}


def check_weights(file: Path) -> str:
    """Compare a file of weights with the digest in the report beside it.

    Returns:
        The result, in a few words for the user.

    Raises:
        ValueError: The report describes other weights.
    """
    try:
        described: Any = json.loads((file.parent / _REPORT).read_text(encoding="utf-8"))["weights"]
        name, expected = described["file"], described["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"not checked: no {_REPORT} with their digest beside them"
    if name != file.name:
        return f"not checked: {_REPORT} beside them is of {name}"
    if digest_of_file(file.resolve()) != expected:
        raise ValueError(
            f"{file}: expected the weights that {_REPORT} beside them describes, their SHA-256 is another one; they "
            "were changed, or a later run in this folder has not ended: evaluate a checkpoint, or a copy elsewhere"
        )
    return f"their SHA-256 is the one in {_REPORT}"
