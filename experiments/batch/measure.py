"""Search for the largest batch of an edition within a memory budget, and the timing of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

import torch

from experiments.batch.search import largest
from experiments.batch.trial import Trial, Weight, weigh
from experiments.forked import forked
from mtl_accum.measure import FreshProcess, MeasurementError, MeasurementWorker

__all__ = ["Row", "Timed", "search", "time_rows"]

Sizes = Mapping[str, int]


@dataclass
class Row:
    """Result of one edition on one network within one limit; bytes and seconds.

    Attributes:
        network: Name of the network.
        edition: Name of the edition.
        limit: Largest peak allowed.
        of: Quantity that is limited: "tensors", "process" or "allocator".
        batch: Largest batch that fits; 0 if none does.
        used: Peak at that batch.
        driver: Memory of the process at that batch, by NVML.
        tries: Measured peak by batch; None where memory ran out.
        seconds: Seconds of every timed step at that batch.
        speed: Samples per second.
        ratio: Speed relative to the summed loss's at its own largest batch.
        failure: Reason for missing times.
    """

    network: str
    edition: str
    limit: int
    of: str
    batch: int = 0
    used: int | None = None
    driver: int | None = None
    tries: dict[int, int | None] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    speed: float | None = None
    ratio: float | None = None
    failure: str | None = None


class Scales:
    """Cache of the measured peaks of one network and edition, shared by several searches."""

    def __init__(self, trial: Callable[[int], Trial], run: Callable[[Trial], Weight | None] = weigh) -> None:
        self._trial, self._run = trial, run
        self.known: dict[int, Weight | None] = {}

    def __call__(self, batch: int) -> Weight | None:
        """Return the memory that a batch needs."""
        if batch not in self.known:
            self.known[batch] = self._run(self._trial(batch))
        return self.known[batch]


def search(scales: Scales, row: Row, *, cap: int, start: int, resolution: float) -> None:
    """Find the largest batch of a row by trials."""

    def fits(batch: int) -> bool:
        weight = scales(batch)
        size = _size(weight, row.of)
        row.tries[batch] = size
        return size is not None and (row.of == "allocator" or size <= row.limit)

    row.batch = largest(fits, cap=cap, start=start, resolution=resolution)
    weight = scales.known.get(row.batch)
    row.used = _size(weight, row.of)
    row.driver = None if weight is None or row.of != "allocator" else weight.process


def _size(weight: Weight | None, of: str) -> int | None:
    if weight is None:
        return None
    return {"tensors": weight.tensors, "process": weight.process, "allocator": weight.reserved}[of]


class Timed:
    """A trial whose steps are timed, within the limit of its row."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def prepare(self) -> None:
        """Run two steps to warm up."""
        trial = self._trial
        self._bench: MeasurementWorker = trial.bench()
        self._bench.tune_for_timing()
        if trial.limit is not None:
            total = torch.cuda.get_device_properties(trial.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, trial.limit / total), trial.device)
        self._bench.prepare()

    def timed_step(self) -> float:
        """Return the seconds of one step."""
        return self._bench.timed_step()


def time_rows(rows: Sequence[Row], trial: Callable[[Row], Trial], rounds: int, *, in_turns: bool) -> None:
    """Time the rows of one network, each at its batch, in turns with their steps or one after the other."""
    timed = [row for row in rows if row.batch]
    for group in [timed] if in_turns else [[row] for row in timed]:
        with ExitStack() as stack:
            processes = [(row, stack.enter_context(forked(Timed(trial(row))))) for row in group]
            for method in ("prepare", *["timed_step"] * rounds):
                for row, process in processes:
                    if row.failure is None:
                        _ask(row, process, method)
    for row in timed:
        row.speed = row.batch / median(row.seconds) if row.seconds else None
    first = rows[0] if rows else None
    for row in timed:
        if first is not None and first.seconds and len(first.seconds) == len(row.seconds):
            pairs = zip(row.seconds, first.seconds, strict=True)
            row.ratio = median(row.batch / mine / (first.batch / theirs) for mine, theirs in pairs)


def _ask(row: Row, process: FreshProcess, method: str) -> None:
    try:
        seconds = process.call(method)
    except MeasurementError as error:
        row.failure = str(error)
        return
    if seconds is not None:
        row.seconds.append(seconds)
