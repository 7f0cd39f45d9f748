"""The progress bar: the tasks' losses and the time left; nothing where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

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

    def training(self, steps: int | None) -> Callable[[int, dict[str, list[float]]], None]:
        """A bar of that many steps (None: unknown); returns what to call after each."""
        bar = self._bar.add_task("training", total=steps, text="")

        def on_step(step: int, losses: dict[str, list[float]]) -> None:
            latest = "  ".join(f"{name} {history[-1]:.4f}" for name, history in losses.items() if history)
            self._bar.update(bar, completed=step, text=latest)

        return on_step

    def note(self, text: str) -> None:
        """Say what happens now."""
        self._bar.console.print(f"[dim]{text}[/dim]") if self._bar.console.is_terminal else None
