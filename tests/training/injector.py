"""An error raised when a phase begins."""

from __future__ import annotations

from typing import Any

import torch

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Injector:
    """Raises when a phase begins, in one step or in several.

    Args:
        phase: its number within a step.
        steps: in which calls of `zero_grad`, counted from 0; a schedule that takes over counts again.
        error: what to raise.
    """

    def __init__(self, phase: int, steps: set[int], error: Exception | None = None) -> None:
        self.phase, self.steps = phase, steps
        self.error = error or torch.OutOfMemoryError(FULL)
        self.attempt, self.seen = -1, 0
        self.fired: list[Any] = []

    def begin(self, name: str, kind: str) -> None:
        if kind == "zero_grad":
            self.attempt, self.seen = self.attempt + 1, 0
        if self.seen == self.phase and self.attempt in self.steps:
            self.fired.append((name, kind))
            raise self.error
        self.seen += 1

    def end(self) -> None:
        pass
