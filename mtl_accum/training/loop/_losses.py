"""Losses of a training run, copied from the device several steps at a time: each copy waits for the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Losses"]

_READ_EVERY = 10  # steps


class Losses:
    """History of every task's loss, one value a step.

    Args:
        tasks: Names of the tasks.
        allow_nan: Whether a loss may be NaN or infinite.

    Attributes:
        history: Losses that have been read so far, by task; up to ten steps behind.
    """

    def __init__(self, tasks: Iterable[str], *, allow_nan: bool = False) -> None:
        self.history: dict[str, list[float]] = {name: [] for name in tasks}
        self._allow_nan = allow_nan
        self._unread: list[Tensor] = []

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of one step.

        Args:
            losses: 0-dim losses by task, on the device.

        Raises:
            FloatingPointError: A loss of this or an earlier step is NaN or infinite; names the task and the step.
        """
        self._unread.append(torch.stack(list(losses.values())))
        if len(self._unread) == _READ_EVERY:
            self.read()

    def read(self) -> dict[str, list[float]]:
        """Copy the losses of all steps from the device, and return the history.

        Raises:
            FloatingPointError: A loss is NaN or infinite; names the task and the step.
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
        """Return all losses as a float64 tensor (tasks, steps)."""
        return torch.tensor(list(self.read().values()), dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Restore the losses from what `state` returned."""
        rows: Sequence[list[float]] = state.tolist()
        for history, row in zip(self.history.values(), rows, strict=True):
            history[:] = row
        self._unread.clear()
