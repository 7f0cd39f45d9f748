"""Checkpoints in a run's folder: their names, the newest one, the best one."""

from __future__ import annotations

import logging
from pathlib import Path

from mtl_accum.training.checkpoint._store import STATE, Checkpoint, CheckpointError, load, read_values

__all__ = [
    "FOLDER",
    "PREFIX",
    "best_checkpoint",
    "checkpoint_at",
    "list_checkpoints",
    "newest_checkpoint",
    "path_of_step",
]

FOLDER = "checkpoints"  # in a run's folder
PREFIX = "step-"  # of a checkpoint's name
_LOG = logging.getLogger(__name__)


def path_of_step(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after a number of steps; paths sort by step."""
    return folder / f"{PREFIX}{step:010d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """List the paths of the checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / STATE).is_file())


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest readable checkpoint in a folder, and log each newer one that cannot be read.

    Returns:
        The checkpoint; None if the folder has no checkpoints.

    Raises:
        CheckpointError: None of the checkpoints can be read.
    """
    paths, reason = list_checkpoints(folder), None
    for path in reversed(paths):
        try:
            return load(path)
        except CheckpointError as error:
            _LOG.warning("%s; the one before it is used", error)
            reason = error
    if paths:
        raise CheckpointError(f"{folder}: none of its {len(paths)} checkpoints can be read; of the oldest: {reason}")
    return None


def best_checkpoint(folder: Path) -> Path | None:
    """Return the path of the last checkpoint that was written as the best one; None if there is none."""
    return next(filter(_is_best, reversed(list_checkpoints(folder))), None)


def checkpoint_at(path: Path) -> Checkpoint | None:
    """Read the checkpoint that a path refers to.

    Args:
        path: Folder of a checkpoint; or folder of a run or its `checkpoints`, for the newest readable one.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        CheckpointError: The checkpoint, or every checkpoint of the run, cannot be read.
    """
    if (path / STATE).is_file():
        return load(path)
    return newest_checkpoint(path if path.name == FOLDER else path / FOLDER)


def _is_best(path: Path) -> bool:
    try:
        return bool(read_values(path)["best"])
    except (CheckpointError, KeyError):
        return False
