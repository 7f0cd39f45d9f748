"""Measurement of peaks, phases and times on networks with more and more tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch

from experiments.forked import forked
from experiments.tasks.networks import Family, parts, ways
from mtl_accum.measure import MeasurementError, MeasurementWorker
from mtl_accum.memory import PeakMemory, device_in_use

__all__ = ["Cell", "measure"]


@dataclasses.dataclass
class Cell:
    """Measurements of one way at one number of tasks, in bytes and seconds; None where there are none.

    Attributes:
        family: Family of networks.
        way: Name of the way.
        tasks: Number of tasks.
        resting: Parameters, gradients, buffers, optimizer state and inputs: the bytes that no schedule can avoid.
        peak: Peak of live tensors.
        activations: Activations at the peak, by the meter.
        temporaries: Temporaries at the peak.
        gradients: Gradients at the peak.
        phase: Phase of the peak.
        operator: Operator of the peak.
        process: Rise of the resident memory in the step; on the CPU.
        allocated: Peak of CUDA's allocator.
        driver: Memory of the process by NVML.
        seconds: Seconds of every timed step.
        ratio: Time relative to the summed loss's, the median of the rounds in turns.
        difference: Difference of the gradient from the summed loss's.
        failure: Reason for missing figures.
    """

    family: str
    way: str
    tasks: int
    resting: int | None = None
    peak: int | None = None
    activations: int | None = None
    temporaries: int | None = None
    gradients: int | None = None
    phase: str | None = None
    operator: str | None = None
    process: int | None = None
    allocated: int | None = None
    driver: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    ratio: float | None = None
    difference: float | None = None
    failure: str | None = None

    @property
    def above(self) -> int | None:
        """Peak above the resting bytes."""
        return None if self.peak is None or self.resting is None else self.peak - self.resting


@dataclasses.dataclass
class Series:
    """One way on a family's networks, one after the other, for a process of its own.

    Attributes:
        family: Family of networks.
        edition: Edition that computes the gradient.
        counts: Numbers of tasks, in the order in which `following` makes their networks.
        samples: Number of samples in a batch.
        device: Device to run on.
        before: Bytes in use on a CUDA device before this process.
    """

    family: Family
    edition: Any
    counts: Sequence[int]
    samples: int
    device: torch.device
    before: int | None = None
    made: int = 0
    bench: MeasurementWorker | None = None

    def tune_for_timing(self) -> None:
        """Tune this process for timing."""
        self._make(1).tune_for_timing()

    def tune_for_memory(self) -> None:
        """Tune this process for memory."""
        self._make(1).tune_for_memory()

    def following(self) -> None:
        """Make the next network, and run two steps."""
        self.bench = None  # the one before is gone when the next one comes
        self.made += 1
        self.bench = self._make(self.counts[self.made - 1])
        self.bench.prepare()

    def timed_step(self) -> float:
        """Return the seconds of one step."""
        return self._there().timed_step()

    def memory(self) -> tuple[int, list[PeakMemory]]:
        """Return the resting bytes, and the peaks by every meter."""
        bench = self._there()
        step = bench._step
        gradients = sum(p.numel() * p.element_size() for p in step.parameters if p.requires_grad)
        with step.tensor_meter() as meter:
            pass
        return (meter.result().base_bytes or 0) + gradients, bench.memory()

    def difference(self) -> float:
        """Return the difference of the gradient from the summed loss's."""
        return self._there().difference().value

    def _there(self) -> MeasurementWorker:
        if self.bench is None:
            raise RuntimeError("there is no network")
        return self.bench

    def _make(self, tasks: int) -> MeasurementWorker:
        build = partial(parts, self.family.make, tasks, self.samples, self.device)
        return MeasurementWorker(build, self.edition, before=self.before)


def measure(
    family: Family,
    counts: Sequence[int],
    samples: int,
    rounds: Callable[[int], int],
    device: torch.device,
    *,
    starts: int = 1,
) -> list[Cell]:
    """Measure every way at every number of tasks, in timed processes of its own and one that is weighed.

    On the CPU the timed processes take turns with their steps; on a GPU they run one after the other, so none
    takes memory that another one needs.

    Args:
        family: Networks that differ in the number of their tasks.
        counts: Numbers of tasks.
        samples: Samples of a batch.
        rounds: Number of timed rounds for a number of tasks.
        device: Device to run on.
        starts: How often timed processes are started: where the system puts a process's memory shifts its times by
            several percent.
    """
    chosen = ways(family.name, samples, device)
    cells = {way: [Cell(family.name, way, tasks) for tasks in counts] for way in chosen}
    groups = [[way] for way in chosen] if device.type == "cuda" else [list(chosen)]
    for group in groups * starts:
        series = {way: Series(family, chosen[way], counts, samples, device) for way in group}
        for row, call in _in_turns(series, "tune_for_timing", cells):
            for _ in range(rounds(counts[row])):
                for way in group:
                    seconds = call(way, "timed_step")
                    if seconds is not None:
                        cells[way][row].seconds.append(seconds)
    for way, edition in chosen.items():
        one = {way: Series(family, edition, counts, samples, device, device_in_use(device))}
        for row, call in _in_turns(one, "tune_for_memory", cells):
            _note(cells[way][row], call(way, "memory"))
            cells[way][row].difference = call(way, "difference")
        print(f"{family.name} {way}: {cells[way][-1].failure or 'done'}", flush=True)
    for way in chosen:
        for cell, summed in zip(cells[way], next(iter(cells.values())), strict=True):
            if cell.seconds and len(cell.seconds) == len(summed.seconds):
                cell.ratio = median(a / b for a, b in zip(cell.seconds, summed.seconds, strict=True))
    return [cell for row in cells.values() for cell in row]


def _in_turns(
    series: Mapping[str, Series], kind: str, cells: Mapping[str, list[Cell]]
) -> Iterator[tuple[int, Callable[[str, str], Any]]]:
    """Yield the row of every number of tasks, and a function that calls a process and returns None if it failed."""
    with ExitStack() as stack:
        processes = {way: stack.enter_context(forked(one)) for way, one in series.items()}
        for process in processes.values():
            process.call(kind)
        for row in range(len(next(iter(cells.values())))):

            def call(way: str, method: str, row: int = row) -> Any:
                cell = cells[way][row]
                if cell.failure is not None:
                    return None
                try:
                    return processes[way].call(method)
                except MeasurementError as error:
                    cell.failure = str(error).removeprefix("RuntimeError: ")
                    return None

            for way in series:
                call(way, "following")
            yield row, call


def _note(cell: Cell, reading: tuple[int, list[PeakMemory]] | None) -> None:
    """Write the meters' records into a cell."""
    if reading is None:
        return
    cell.resting, records = reading
    for record in records:
        if record.source == "tensors":
            cell.peak, cell.phase, cell.operator = record.peak_bytes, record.peak_phase, record.peak_operator
            if record.categories is not None:
                for name in ("activations", "temporaries", "gradients"):
                    setattr(cell, name, getattr(record.categories, name))
        elif record.source == "process" and record.peak_bytes is not None and record.base_bytes is not None:
            cell.process = record.peak_bytes - record.base_bytes
        elif record.source == "cuda":
            cell.allocated, cell.driver = record.peak_bytes, record.process_bytes
