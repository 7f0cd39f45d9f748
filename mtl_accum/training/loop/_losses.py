"""The losses of a training run, read from the device a few at a time: reading waits for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Losses"]

_READ_EVERY = 10  # steps


class Losses:
    """Every task's loss at every step.

    Args:
        tasks: their names.
        allow_nan: a loss that is NaN or infinite is no error.

    Attributes:
        history: by task, what has been read so far: a few steps behind.
    """

    def __init__(self, tasks: Iterable[str], *, allow_nan: bool = False) -> None:
        self.history: dict[str, list[float]] = {name: [] for name in tasks}
        self._allow_nan = allow_nan
        self._unread: list[Tensor] = []

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Those of one more step.

        Raises:
            FloatingPointError: one that is read now is NaN or infinite; names the task and the step.
        """
        self._unread.append(torch.stack(list(losses.values())))
        if len(self._unread) == _READ_EVERY:
            self.read()

    def read(self) -> dict[str, list[float]]:
        """Bring all over from the device.

        Raises:
            FloatingPointError: one is NaN or infinite; names the task and the step.
        """
        rows = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for row in rows:
            for (name, history), value in zip(self.history.items(), row, strict=True):
                history.append(value)
                if not self._allow_nan and not math.isfinite(value):
                    raise FloatingPointError(
                        f"task '{name}': loss is {value} at step {len(history)}; a lower learning rate "
                        "(optimizer.lr=...) or weight may help; on_nan=skip leaves such steps out"
                    )
        return self.history

    def state(self) -> Tensor:
        """All of them, (tasks, steps), float64."""
        return torch.tensor(list(self.read().values()), dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Put `state` back."""
        rows: Sequence[list[float]] = state.tolist()
        for history, row in zip(self.history.values(), rows, strict=True):
            history[:] = row
        self._unread.clear()
