"""When checkpoints are written."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_accum._train_settings import CheckpointConfig
from mtl_accum.training.checkpoint import FOLDER, CheckpointError, Checkpoints
from mtl_accum.training.loop import Callback, Training

__all__ = ["CheckpointCallback"]

_LOG = logging.getLogger(__name__)


class CheckpointCallback(Callback):
    """Writes checkpoints while a run trains, and the last one when it ends.

    Args:
        settings: when.
        folder: of the run.
        also: what JSON can hold and a checkpoint should, beside the state: the configuration, the plan.
        overwrite: Whether the run does not go on from what is in its folder; the first checkpoint replaces that.
    """

    def __init__(
        self, settings: CheckpointConfig, folder: Path, also: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self._settings, self._also = settings, also
        self._checkpoints = Checkpoints(folder / FOLDER, keep=settings.keep, overwrite=overwrite)
        self._last = time.monotonic()
        self._step = 0  # of the last one
        self._trouble = ""  # why the latest ones could not be written

    def on_step(self, run: Training) -> None:
        """Write one, if it is time."""
        steps, seconds = self._settings.every_steps, self._settings.every_seconds
        counted = steps is not None and run.position.step % steps == 0
        if counted or (seconds is not None and time.monotonic() - self._last >= seconds):
            self.write(run)

    def on_epoch(self, run: Training) -> None:
        """Write one, if validation has just found it the best."""
        best = run.kept.get("best")
        if best is not None and best["step"] == run.position.step:
            self.write(run, best=True)

    def on_end(self, run: Training) -> None:
        """Write the last one, unless it is there."""
        if self._step != run.position.step:
            self.write(run)

    def write(self, run: Training, *, best: bool = False) -> None:
        """Write one now.

        Raises:
            CheckpointError: it could not be written, and that ends training.
        """
        self._last = time.monotonic()
        tensors, values = run.state()
        try:
            self._checkpoints.write(run.position.step, tensors, {**self._also, **values}, best=best)
        except CheckpointError as error:
            if self._settings.on_error == "raise":
                raise
            self._report(error)
        else:
            self._step, self._trouble = run.position.step, ""

    def _report(self, error: CheckpointError) -> None:
        """Log why a checkpoint could not be written, once for all that fail in a row for the same reason."""
        trouble = repr(error.__cause__)
        if trouble != self._trouble:
            _LOG.warning("%s; training goes on, and tries again for the next one", error)
        self._trouble = trouble
