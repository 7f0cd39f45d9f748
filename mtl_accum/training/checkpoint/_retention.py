"""Retention of a run's checkpoints: the newest ones and the best one are kept, the others are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mtl_accum._validate import positive_int
from mtl_accum.training.checkpoint._atomic import remove_leftovers
from mtl_accum.training.checkpoint._folder import PREFIX, best_checkpoint, list_checkpoints, path_of_step
from mtl_accum.training.checkpoint._store import save

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """Writes the checkpoints of one run, and deletes those that are no longer needed.

    Args:
        folder: Folder of the checkpoints; made with the first one.
        keep: Number of the newest checkpoints to keep, besides the best one.
        overwrite: Whether checkpoints already in `folder` belong to an earlier run; they are deleted once the first
            new one is written.

    Raises:
        ValueError: keep is less than 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2, overwrite: bool = False) -> None:
        positive_int("checkpoint.keep", keep)
        self.folder, self._keep = folder, keep
        self._leftovers_removed = False
        self._of_earlier_run = set(list_checkpoints(folder)) if overwrite else set()
        self._best = None if overwrite else best_checkpoint(folder)

    def write(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, best: bool = False) -> Path:
        """Write a checkpoint, and delete those that are no longer needed.

        Checkpoints of later steps are deleted too: the run has resumed from before them.

        Args:
            step: Number of optimizer steps done.
            tensors: Tensors by name, on any device.
            values: Values that JSON can hold.
            best: Whether it is the best one so far.

        Returns:
            The folder of the checkpoint.

        Raises:
            CheckpointError: The checkpoint could not be written; the earlier ones are as they were.
        """
        path = path_of_step(self.folder, step)
        best = best or path == self._best
        save(path, tensors, {**values, "best": best})
        if best:
            self._best = path
        elif self._best is not None and self._best.name > path.name:  # it is of a later step
            self._best = None
        self._of_earlier_run.discard(path)
        self._delete_unneeded(path)
        return path

    def _delete_unneeded(self, newest: Path) -> None:
        if not self._leftovers_removed:
            remove_leftovers(self.folder, PREFIX)
            self._leftovers_removed = True
        paths = list_checkpoints(self.folder)
        of_run = [path for path in paths if path.name <= newest.name and path not in self._of_earlier_run]
        kept = {*of_run[-self._keep :], self._best}
        for path in paths:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
