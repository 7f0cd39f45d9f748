"""The progress bar: the tasks' losses and the time left; nothing where there is no terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mtl_accum.training._fit import Training, Watcher

__all__ = ["Progress"]


class Progress:
    """A bar for training and a line for what comes after it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def training(self, steps: int | None) -> Watcher:
        """A bar of that many steps; None: unknown."""
        return _Steps(self._bar, self._bar.add_task("training", total=steps, text=""))

    def note(self, text: str) -> None:
        """Say what happens now."""
        self._bar.console.print(f"[dim]{text}[/dim]") if self._bar.console.is_terminal else None


class _Steps(Watcher):
    """Moves the bar on."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def on_step(self, run: Training) -> None:
        known = {name: history[-1] for name, history in run.losses.history.items() if history}
        latest = "  ".join(f"{name} {loss:.4f}" for name, loss in known.items())
        self._bar.update(self._task, completed=run.position.step, text=latest)
