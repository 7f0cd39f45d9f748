"""Measurement of one row in a fresh process."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch

from experiments.peers.networks import SITUATIONS, Batch
from experiments.peers.rows import ROWS, Row, reference_of
from mtl_accum.memory import CudaMeter, PeakMemory, ProcessMeter, TensorMeter, keep_freed_memory, wall_clock
from mtl_accum.verify import gradient_difference

__all__ = ["TINY", "Batches", "Bench", "differences"]

TINY, STEPS = 0.05, 3  # the scale and the steps of the difference: exactness is no matter of size
Around = Callable[[], AbstractContextManager[Any]]


class Batches:
    """Batches for a peer's loop: a fixed seed before every step, and a context around the last one.

    A step is what happens between one batch and the asking for the next: so the loop may be anybody's.
    """

    def __init__(self, made: Sequence[Batch], around: Around = nullcontext) -> None:
        self._made, self._around = made, around
        self.asked = 0

    def __len__(self) -> int:
        """Return one too many: Lightning then fetches another batch after the last step, which ends the timing."""
        return len(self._made) + 1

    def __iter__(self) -> Iterator[Batch]:
        """Yield each batch."""
        for number, batch in enumerate(self._made):
            torch.manual_seed(number)
            with self._around() if number == len(self._made) - 1 else nullcontext():
                yield batch
            self.asked += 1

    def check(self) -> None:
        """Raise unless every batch was trained on."""
        if self.asked != len(self._made):
            raise RuntimeError(f"{self.asked} of {len(self._made)} steps were run")


class Clock:
    """Seconds of a block, with the device synchronised."""

    def __init__(self, device: torch.device) -> None:
        self._now = wall_clock(device)
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.seconds = self._now() - self._start


class Bench:
    """One row at one scale on one device: timed or weighed, never both; and the differences of its final weights.

    Args:
        name: Name of the row.
        scale: Factor on the batch.
        device: Device in torch's notation.
    """

    def __init__(self, name: str, scale: float, device: str) -> None:
        self._name, self._scale, self._device = name, scale, device

    def tune_for_timing(self) -> None:
        """Make this process one that is timed; the first thing to call then."""
        keep_freed_memory()

    def tune_for_memory(self) -> None:
        """Make this process one that is weighed; the first thing to call then."""
        ProcessMeter.tune()

    def prepare(self) -> None:
        """Run two steps: imports, workspaces and lazily loaded kernels are present afterwards."""
        quiet()
        self._row: Row = next(row for row in ROWS if row.name == self._name)
        situation = SITUATIONS[self._row.situation]
        self._network = situation.make(device=self._device, dtype=torch.float32)
        self._batch = situation.batches(1, self._scale, device=self._device, dtype=torch.float32)[0]
        self._run()

    def timed_step(self) -> float:
        """Return the seconds of the second of two steps."""
        clock = Clock(torch.device(self._device))
        self._run(lambda: clock)
        return clock.seconds

    def memory(self) -> list[PeakMemory]:
        """Return the peaks of a step by every meter of the device, each over a step of its own."""
        device = torch.device(self._device)
        readings = []

        def weigh(meter: Callable[[], Any]) -> None:
            used: list[Any] = []

            def around() -> Any:
                gc.collect()
                used.append(meter())  # not before: it starts from the live tensors
                return used[0]

            self._run(around)
            readings.append(used[0].result())

        weigh(lambda: TensorMeter(device, parameters=list(self._network.parameters()), inputs=self._batch))
        if device.type == "cuda":
            weigh(lambda: CudaMeter(device))
        elif ProcessMeter.unavailable() is None:
            weigh(ProcessMeter)
        return readings

    def differences(self) -> tuple[float, float]:
        """See the function."""
        return differences(self._row, self._device)

    def _run(self, around: Around = nullcontext) -> None:
        batches = Batches([self._batch] * 2, around)
        self._row.run(self._network, batches)
        batches.check()


def differences(row: Row, device: str = "cpu") -> tuple[float, float]:
    """Compare a row's weights with its reference's after three steps in float64: without dropout, and with.

    By `gradient_difference`, of how far the weights moved: 0 is the same to the last bit, 1 not moved at all.
    """
    without, with_ = (
        gradient_difference(_moves(row, device, p), _moves(reference_of(row), device, p)) for p in (0.0, 0.1)
    )
    return without, with_


def _moves(row: Row, device: str, dropout: float) -> dict[str, torch.Tensor]:
    situation = SITUATIONS[row.situation]
    network = situation.make(device=device, dtype=torch.float64, dropout=dropout)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    batches = Batches(situation.batches(STEPS, TINY, device=device, dtype=torch.float64))
    row.run(network, batches)
    batches.check()
    return {name: parameter.detach() - start[name] for name, parameter in network.named_parameters()}


def quiet() -> None:
    """Silence libraries' output and warnings, and keep them offline."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
