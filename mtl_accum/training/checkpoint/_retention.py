"""The checkpoints of a run: the last few and the best one are kept, and the newest one that can be read is used."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mtl_accum._validate import positive_int
from mtl_accum.training.checkpoint._store import STATE, Checkpoint, CheckpointError, load, read_values, save

__all__ = ["FOLDER", "Checkpoints", "all_of", "newest", "of_path"]

FOLDER = "checkpoints"  # in a run's folder
_LOG = logging.getLogger(__name__)
_NAME = "step-"


class Checkpoints:
    """Write the checkpoints of one run, and remove those that are too many.

    Args:
        folder: Made with the first checkpoint; a folder `step-...` each.
        keep: Number of the newest checkpoints to keep; the best one is kept on top of that.
        overwrite: Whether checkpoints already in `folder` belong to an earlier run; they are deleted once the first
            new one is written.

    Raises:
        ValueError: keep is less than 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2, overwrite: bool = False) -> None:
        positive_int("checkpoint.keep", keep)
        self.folder, self._keep = folder, keep
        self._tidy = False
        present = all_of(folder)
        self._foreign = set(present) if overwrite else set()
        self._best = None if overwrite else next(filter(_is_best, reversed(present)), None)

    def write(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, best: bool = False) -> Path:
        """Write one, and remove those that are too many and those of later steps: the run has gone back before them.

        Args:
            step: Number of optimizer steps done.
            tensors: By name, on any device.
            values: What JSON can hold.
            best: Whether it is the best one so far.

        Raises:
            CheckpointError: It could not be written; those that were there still are.
        """
        path = self.folder / f"{_NAME}{step:010d}"
        best = best or path == self._best
        written = save(path, tensors, {**values, "best": best})
        if best or (self._best is not None and self._best.name > path.name):  # gone back before it
            self._best = written if best else None
        self._foreign.discard(written)
        self._remove_too_many(written)
        return written

    def _remove_too_many(self, newest: Path) -> None:
        if not self._tidy:
            for left in (*self.folder.glob(f".writing-{_NAME}*"), *self.folder.glob(f".before-{_NAME}*")):
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
            self._tidy = True
        so_far = [path for path in all_of(self.folder) if path.name <= newest.name and path not in self._foreign]
        kept = {*so_far[-self._keep :], self._best}
        for path in all_of(self.folder):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a folder that can be read, with a line in the log for each that cannot.

    Raises:
        CheckpointError: There are some, and none of them can be read.
    """
    present, reason = all_of(folder), None
    for path in reversed(present):
        try:
            return load(path)
        except CheckpointError as error:
            _LOG.warning("%s; the one before it is used", error)
            reason = error
    if present:
        raise CheckpointError(f"{folder}: none of its {len(present)} checkpoints can be read; of the oldest: {reason}")
    return None


def of_path(path: Path) -> Checkpoint | None:
    """Read what a path stands for: a checkpoint itself, or the newest one of a run's folder or of its `checkpoints`.

    Raises:
        CheckpointError: There are some, and none of them can be read.
    """
    if (path / STATE).is_file():
        return load(path)
    return newest(path if path.name == FOLDER else path / FOLDER)


def all_of(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob(f"{_NAME}*") if (path / STATE).is_file())


def _is_best(path: Path) -> bool:
    try:
        return bool(read_values(path)["best"])
    except (CheckpointError, KeyError):
        return False
