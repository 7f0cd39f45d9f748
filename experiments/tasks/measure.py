"""Every way on networks of one family with more and more tasks: peaks, phases, times."""

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
    """What was measured of one way at one number of tasks, in bytes and seconds; None where it was not.

    Attributes:
        family: of networks.
        way: its name.
        tasks: how many.
        resting: parameters, their gradients, buffers, optimizer state and inputs: what no schedule can avoid.
        peak: of live tensors.
        activations: of that; as the meter has it.
        temporaries: of that.
        gradients: of that.
        phase: where it was reached.
        operator: that reached it.
        process: how far the resident memory rose above what it was before the step; on the CPU.
        allocated: the peak of CUDA's allocator.
        driver: the process's memory as NVML sees it.
        seconds: of every timed step.
        ratio: to the summed loss's time, the median of the rounds in turns.
        difference: of the gradient, to the summed loss's.
        failure: why figures are missing.
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
        """The peak above the resting bytes."""
        return None if self.peak is None or self.resting is None else self.peak - self.resting


@dataclasses.dataclass
class Series:
    """One way on a family's networks, one after the other, in a process of its own.

    Attributes:
        family: of networks.
        edition: what computes the gradient.
        counts: of tasks, in the order in which `following` makes their networks.
        samples: of a batch.
        device: to run on.
        before: used bytes of a CUDA device before this process.
    """

    family: Family
    edition: Any
    counts: Sequence[int]
    samples: int
    device: torch.device
    before: int | None = None
    made: int = 0
    bench: MeasurementWorker | None = None

    def to_be_timed(self) -> None:
        """Make this process one that is timed."""
        self._make(1).to_be_timed()

    def to_be_weighed(self) -> None:
        """Make this process one that is weighed."""
        self._make(1).to_be_weighed()

    def following(self) -> None:
        """Make the next network, and two steps."""
        self.bench = None  # the one before is gone when the next one comes
        self.made += 1
        self.bench = self._make(self.counts[self.made - 1])
        self.bench.prepare()

    def timed_step(self) -> float:
        """Seconds of one step."""
        return self._there().timed_step()

    def memory(self) -> tuple[int, list[PeakMemory]]:
        """The bytes that rest, and the peaks by every meter."""
        bench = self._there()
        step = bench._step
        gradients = sum(p.numel() * p.element_size() for p in step.parameters if p.requires_grad)
        with step.tensor_meter() as meter:
            pass
        return (meter.result().base_bytes or 0) + gradients, bench.memory()

    def difference(self) -> float:
        """Of the gradient, to the summed loss's."""
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
    """Every way at every number of tasks, processes of its own that are timed and one that is weighed.

    On the CPU the timed processes take turns with their steps; on a GPU they run one after the other, so that none
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
        for row, ask in _in_turns(series, "to_be_timed", cells):
            for _ in range(rounds(counts[row])):
                for way in group:
                    seconds = ask(way, "timed_step")
                    if seconds is not None:
                        cells[way][row].seconds.append(seconds)
    for way, edition in chosen.items():
        one = {way: Series(family, edition, counts, samples, device, device_in_use(device))}
        for row, ask in _in_turns(one, "to_be_weighed", cells):
            _note(cells[way][row], ask(way, "memory"))
            cells[way][row].difference = ask(way, "difference")
        print(f"{family.name} {way}: {cells[way][-1].failure or 'done'}", flush=True)
    for way in chosen:
        for cell, summed in zip(cells[way], next(iter(cells.values())), strict=True):
            if cell.seconds and len(cell.seconds) == len(summed.seconds):
                cell.ratio = median(a / b for a, b in zip(cell.seconds, summed.seconds, strict=True))
    return [cell for row in cells.values() for cell in row]


def _in_turns(
    series: Mapping[str, Series], kind: str, cells: Mapping[str, list[Cell]]
) -> Iterator[tuple[int, Callable[[str, str], Any]]]:
    """For every number of tasks its place, and a way to ask the processes, which answers None where one failed."""
    with ExitStack() as stack:
        processes = {way: stack.enter_context(forked(one)) for way, one in series.items()}
        for process in processes.values():
            process.call(kind)
        for row in range(len(next(iter(cells.values())))):

            def ask(way: str, method: str, row: int = row) -> Any:
                cell = cells[way][row]
                if cell.failure is not None:
                    return None
                try:
                    return processes[way].call(method)
                except MeasurementError as error:
                    cell.failure = str(error).removeprefix("RuntimeError: ")
                    return None

            for way in series:
                ask(way, "following")
            yield row, ask


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
