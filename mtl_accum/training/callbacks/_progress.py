"""The progress bar: the tasks' losses and the time left; where there is no terminal, a line now and then."""

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
_SECONDS = 30  # between two lines in a log


class ProgressDisplay:
    """A bar for training and a line for what comes after it."""

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
        """A bar of that many steps; None: unknown."""
        return _Steps(self._bar, self._bar.add_task("training", total=steps, text=""))

    def note(self, text: str) -> None:
        """Say what happens now."""
        self._bar.console.print(text, style="dim", markup=False, emoji=False) if self._bar.console.is_terminal else None


class _Steps(Callback):
    """Moves the bar on; where there is none, says a line in the log now and then."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task, self._said = bar, task, time.monotonic()

    def on_step(self, run: Training) -> None:
        now = time.monotonic()
        if self._bar.disable and now - self._said < _SECONDS:
            return
        known = {name: history[-1] for name, history in run.losses.history.items() if history}
        latest = "  ".join(f"{name} {loss:.4f}" for name, loss in known.items())
        if self._bar.disable:
            self._said = now
            _LOG.info("step %d, epoch %d of %d: %s", run.position.step, run.position.epoch + 1, run.loop.epochs, latest)
        else:
            self._bar.update(self._task, completed=run.position.step, text=latest)
