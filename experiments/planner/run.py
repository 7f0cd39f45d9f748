"""Plans against every candidate, measured: budget, predicted peak and speed.

python -m experiments.planner.run        # from the repository's root; about half an hour; writes README.md beside it
python -m experiments.planner.run transformer ...      # these networks only; prints their tables
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import torch

from experiments.planner.grid import MODELS, SHARES, schedules
from mtl_accum import Edition, SummedLoss, plan
from mtl_accum.measure import FreshProcess
from mtl_accum.memory import TrainingStep, keep_freed_memory
from mtl_accum.planning import format_edition
from mtl_accum.report import markdown_table
from mtl_accum.testing import profiler_peak
from mtl_accum.verify import without_a_trace

MIB = 2**20
ROUNDS, FINAL_ROUNDS = 4, 21  # steps of every candidate, in turns; of those that may be the fastest
FINALISTS = 6  # by budget
SLOW = 0.6  # seconds; a candidate that takes longer is timed once
NEAR, EXACT = 0.05, 0.03  # how much slower than the fastest one, and how far from the measured peak, is a hit


@dataclass
class Candidate:
    """Measurements of one schedule: bytes, and seconds of steps in turns with the others."""

    edition: Edition
    peak: int = 0
    seconds: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        """Median seconds of a step."""
        return median(self.final or self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, relative to the median."""
        low, _, high = quantiles(self.final, n=4)
        return (high - low) / self.time


@dataclass
class Cell:
    """A plan for one budget; peaks in bytes, times in seconds."""

    model: str
    share: float | None  # None is the budget that nothing fits
    budget: int
    chosen: str = ""
    predicted: int = 0
    measured: int = 0
    kernels: int = 0  # what the profiler saw beyond that
    time: float = 0.0
    fastest: str = ""
    fastest_time: float = 0.0
    noise: float = 0.0
    took: float = 0.0
    refused: str = ""

    def misses(self) -> list[str]:
        """Return the plan's misses, in words."""
        if self.share is None:
            return [] if self.refused else [f"{self.chosen} was chosen where nothing fits"]
        if self.refused:
            return [f"nothing was chosen: {self.refused}"]
        faults = []
        if self.measured > self.budget:
            faults.append(f"over the budget by {(self.measured - self.budget) / MIB:.2f} MiB")
        if abs(self.predicted / self.measured - 1) > EXACT:
            faults.append(f"predicted {self.predicted / self.measured - 1:+.1%}")
        if self.time > (1 + max(NEAR, self.noise)) * self.fastest_time:
            faults.append(f"{self.time / self.fastest_time - 1:.1%} slower than {self.fastest}, noise {self.noise:.1%}")
        return faults


class Subject:
    """One network, its measured candidates and its plans, for a process of its own."""

    def __init__(self, model: str) -> None:
        self.name = model

    def measure(self) -> tuple[int, float]:
        """Measure peak and time of all candidates; return their number, and the seconds that it took."""
        keep_freed_memory()
        torch.set_num_threads(1)  # the other cores are shared with whoever else is there
        torch.manual_seed(0)
        started = time.perf_counter()
        self.model, self.batch = MODELS[self.name]()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.candidates = {repr(edition): Candidate(edition) for edition in schedules(self.model, self.batch)}
        with without_a_trace(self._step(SummedLoss())):
            self._step(SummedLoss())()
            for candidate in self.candidates.values():
                step = self._step(candidate.edition)
                with step.tensor_meter() as meter:
                    step()
                candidate.peak = meter.result().peak_bytes or 0
            for _ in range(ROUNDS):
                for candidate in self.candidates.values():
                    if not candidate.seconds or candidate.seconds[0] < SLOW:
                        candidate.seconds.append(self._timed(candidate.edition))
        return len(self.candidates), time.perf_counter() - started

    def plans(self) -> list[Cell]:
        """Make a plan for every budget, and one for a budget that nothing fits."""
        low = min(candidate.peak for candidate in self.candidates.values())
        high = self.candidates[repr(SummedLoss())].peak
        cells = [self._plan(share, round(low + share * (high - low))) for share in SHARES]
        cells.append(self._plan(None, round(0.9 * low)))
        self._final(cells)
        for cell in cells:
            self._judge(cell)
        return cells

    def _plan(self, share: float | None, budget: int) -> Cell:
        cell = Cell(self.name, share, budget)
        result = plan(self.model.trunk, self.model.tasks, self.batch, optimizer=self.optimizer, budget=budget)
        cell.took = sum(result.spent.values())
        if result.chosen is None:
            cell.refused = "; ".join(result.advice)
        else:
            cell.chosen, cell.predicted = repr(result.edition), result.peak.peak_bytes or 0
        return cell

    def _final(self, cells: list[Cell]) -> None:
        """Time the chosen schedules and those that may be faster again, in turns."""
        finalists = {cell.chosen: self.candidates[cell.chosen] for cell in cells if cell.chosen}
        for cell in cells:
            fitting = sorted((c for c in self.candidates.values() if c.peak <= cell.budget), key=lambda c: c.time)
            finalists |= {repr(candidate.edition): candidate for candidate in fitting[:FINALISTS]}
        with without_a_trace(self._step(SummedLoss())):
            for _ in range(FINAL_ROUNDS):
                for candidate in finalists.values():
                    candidate.final.append(self._timed(candidate.edition))

    def _judge(self, cell: Cell) -> None:
        """Compare a plan with the fastest of the finalists that fit."""
        if not cell.chosen:
            return
        chosen = self.candidates[cell.chosen]
        rivals = [c for c in self.candidates.values() if c.final and c.peak <= cell.budget]
        fastest = min(rivals, key=lambda candidate: candidate.time, default=chosen)
        cell.measured, cell.time = chosen.peak, chosen.time
        cell.fastest, cell.fastest_time = format_edition(fastest.edition), fastest.time
        cell.noise = median(candidate.spread for candidate in rivals) if rivals else 0.0
        with without_a_trace(self._step(SummedLoss())):
            step = self._step(chosen.edition)
            step()
            with step.tensor_meter() as meter:
                step()
            result = meter.result()
            cell.kernels = profiler_peak(step) - ((result.peak_bytes or 0) - (result.base_bytes or 0))
        cell.chosen = format_edition(chosen.edition)

    def _step(self, edition: Edition) -> TrainingStep:
        return TrainingStep(self.model.trunk, self.model.tasks, self.batch, self.optimizer, edition)

    def _timed(self, edition: Edition) -> float:
        step = self._step(edition)
        start = time.perf_counter()
        step()
        return time.perf_counter() - start


HEADING = ["network", "budget", "MiB", "chosen", "predicted", "measured", "kernels", "step", "fastest", "of its time"]
HEADING += ["noise", "plan took", "misses"]


def row(cell: Cell) -> list[str]:
    """Return a cell of the grid as a row of the table."""
    share = "infeasible" if cell.share is None else f"{cell.share:.0%}"
    start = [cell.model, share, f"{cell.budget / MIB:.2f}"]
    end = [f"{cell.took:.1f} s", "; ".join(cell.misses())]
    if cell.refused:
        return [*start, "nothing fits", *["–"] * 7, *end]
    return [
        *start,
        cell.chosen,
        f"{cell.predicted / cell.measured - 1:+.2%}",
        f"{cell.measured / MIB:.2f}",
        f"{cell.kernels / MIB:+.2f}",
        f"{1000 * cell.time:.1f} ms",
        cell.fastest,
        f"{cell.time / cell.fastest_time:.3f}",
        f"{cell.noise:.1%}",
        *end,
    ]


def main(names: list[str]) -> None:
    """Run the networks; write the report if it is all of them."""
    cells: list[Cell] = []
    sizes: list[str] = []
    for name in names or MODELS:
        with FreshProcess(Subject(name)) as process:
            count, seconds = process.call("measure")
            sizes.append(f"`{name}` {count}")
            print(f"{name}: {count} candidates measured in {seconds:.0f} s", flush=True)
            mine: list[Cell] = process.call("plans")
        for cell in mine:
            print(" | ".join(row(cell)), flush=True)
        cells += mine
    planned = [cell for cell in cells if cell.share is not None]
    over = [cell for cell in planned if cell.measured > cell.budget]
    slow = [cell for cell in planned if any("slower" in miss for miss in cell.misses())]
    off = max((abs(cell.predicted / cell.measured - 1) for cell in planned if cell.measured), default=0.0)
    summary = {
        "version": torch.__version__,
        "candidates": ", ".join(sizes),
        "table": "\n".join(markdown_table([HEADING, *map(row, cells)])),
        "planned": len(planned),
        "over": len(over),
        "off": f"{off:.2%}",
        "fast": len(planned) - len(slow),
        "share": f"{1 - len(slow) / len(planned):.0%}",
        "infeasible": sum(not cell.misses() for cell in cells if cell.share is None),
        "infeasible_all": sum(cell.share is None for cell in cells),
        "exactly": sum(cell.chosen == cell.fastest for cell in planned),
        "longest": f"{max(cell.took for cell in cells):.1f}",
        "misses": "\n".join(f"- {c.model}, {row(c)[1]}: {miss}" for c in cells for miss in c.misses()) or "None.",
    }
    print("misses:", summary["misses"], sep="\n")
    if not names:
        text = (Path(__file__).parent / "text.md").read_text(encoding="utf-8")
        (Path(__file__).parent / "README.md").write_text(text.format(**summary), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
