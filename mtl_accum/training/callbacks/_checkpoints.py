"""Checkpoints during training: every so many steps or seconds, at the best validation, and at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_accum._train_settings import CheckpointConfig
from mtl_accum.training.checkpoint import FOLDER, CheckpointError, CheckpointWriter
from mtl_accum.training.loop import Callback, Training

__all__ = ["CheckpointCallback"]

_LOG = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Callback that writes checkpoints during training, and a last one at its end.

    Args:
        settings: Intervals of the checkpoints, and the number to keep.
        folder: Folder of the run.
        extra: Values that JSON can hold and that each checkpoint gets besides the state: configuration and plan.
        overwrite: Whether checkpoints already in the folder belong to an earlier run; the first new one replaces them.
    """

    def __init__(
        self, settings: CheckpointConfig, folder: Path, extra: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self._settings, self._extra = settings, extra
        self._checkpoints = CheckpointWriter(folder / FOLDER, keep=settings.keep, overwrite=overwrite)
        self._last_time = time.monotonic()
        self._last_step = 0
        self._failure = ""  # reason why the latest checkpoints could not be written

    def on_step(self, run: Training) -> None:
        """Write a checkpoint if one is due."""
        steps, seconds = self._settings.every_steps, self._settings.every_seconds
        due = steps is not None and run.position.step % steps == 0
        if due or (seconds is not None and time.monotonic() - self._last_time >= seconds):
            self.write(run)

    def on_epoch(self, run: Training) -> None:
        """Write a checkpoint if the last validation was the best one."""
        best = run.kept.get("best")
        if best is not None and best["step"] == run.position.step:
            self.write(run, best=True)

    def on_end(self, run: Training) -> None:
        """Write a checkpoint of the last step, unless there is one."""
        if self._last_step != run.position.step:
            self.write(run)

    def write(self, run: Training, *, best: bool = False) -> None:
        """Write a checkpoint.

        Args:
            run: Training run to save.
            best: Whether this is the best checkpoint so far.

        Raises:
            CheckpointError: The checkpoint could not be written, and the settings make that an error.
        """
        self._last_time = time.monotonic()
        tensors, values = run.state()
        try:
            self._checkpoints.write(run.position.step, tensors, {**self._extra, **values}, best=best)
        except CheckpointError as error:
            if self._settings.on_error == "raise":
                raise
            self._log_failure(error)
        else:
            self._last_step, self._failure = run.position.step, ""

    def _log_failure(self, error: CheckpointError) -> None:
        """Log why a checkpoint could not be written, once for consecutive failures of the same reason."""
        failure = repr(error.__cause__)
        if failure != self._failure:
            _LOG.warning("%s; training goes on, and the next checkpoint is tried again", error)
        self._failure = failure
