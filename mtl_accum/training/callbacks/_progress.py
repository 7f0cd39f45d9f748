"""Progress display: a bar with losses and remaining time, or regular log lines without a terminal."""

from __future__ import annotations

import logging
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mtl_accum.training.loop import Callback, Training

__all__ = ["ProgressDisplay"]

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 30  # in a log


class ProgressDisplay:
    """Progress bar of training, and lines for the parts of a job after it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def training(self, steps: int | None) -> Callback:
        """Return a callback that shows the progress of training.

        Args:
            steps: Number of steps; None if unknown.
        """
        return _Steps(self._bar, self._bar.add_task("training", total=steps, text=""))

    def note(self, text: str) -> None:
        """Print a line about the part of the job that begins; only on a terminal."""
        if self._bar.console.is_terminal:
            self._bar.console.print(text, style="dim", markup=False, emoji=False)


class _Steps(Callback):
    """Callback that advances the bar, or logs a line at intervals if there is no bar."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task, self._last_line = bar, task, time.monotonic()

    def on_step(self, run: Training) -> None:
        seconds = time.monotonic()
        if self._bar.disable and seconds - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        losses = {name: history[-1] for name, history in run.losses.history.items() if history}
        latest = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        if self._bar.disable:
            self._last_line = seconds
            _LOG.info("step %d, epoch %d of %d: %s", run.position.step, run.position.epoch + 1, run.loop.epochs, latest)
        else:
            self._bar.update(self._task, completed=run.position.step, text=latest)
