"""Quality and repeatability of plans on a machine with noisy times.

python -m experiments.planner.busy                # both tables; writes busy/README.md and busy/results.json
python -m experiments.planner.busy --runs 2 --again 2 --folder /tmp/busy      # in short
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.load import loads, noise
from experiments.planner.grid import MODELS, SHARES, schedules
from experiments.study import Report
from mtl_accum import Edition, SummedLoss, plan
from mtl_accum.memory import TrainingStep, keep_freed_memory
from mtl_accum.planning import Tables, estimate, format_edition, measure_costs, simplicity, step_seconds
from mtl_accum.prediction import DryRun
from mtl_accum.verify import without_a_trace

BUSY = 2  # loops beside the plan, one for each of two cores
ABSURD = 1.2  # times the fastest simpler schedule that fits
FINALISTS, ROUNDS = 5, 9  # simpler schedules that are timed again with the chosen one, in turns
SAME_SHARE = 0.5  # of the way from the smallest peak to SummedLoss's, of the plans that are made again


@dataclass
class Run:
    """One plan made beside busy loops, and the cost of its choice after they end; peaks in bytes."""

    network: str
    share: float
    budget: int
    chosen: str
    fastest: str  # of the simpler schedules that fit; "" if none is simpler
    ratio: float  # of the chosen one's time to that one's
    smallest_phase: float  # seconds by the plan's own table; never below zero
    took: float


class Subject:
    """A network of the study with its exact peaks by the formula."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        self.model, self.batch = MODELS[name]()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        parts = self.model.trunk, self.model.tasks, self.batch, self.optimizer
        with DryRun(parts, cuda=False) as dry_run:
            network = measure_costs(dry_run, ["", "checkpointed"])
        self.tables: Tables = network.tables
        self.samples = network.samples
        editions = schedules(self.model, self.batch)
        self.peaks = {edition: estimate(edition, self.tables, self.samples).peak_bytes for edition in editions}

    def budget(self, share: float) -> int:
        """Return a budget at a share of the way from the smallest peak to the summed loss's."""
        low, high = min(self.peaks.values()), self.peaks[SummedLoss()]
        return round(low + share * (high - low))

    def plan(self, budget: int) -> Any:
        """Make a plan."""
        return plan(self.model.trunk, self.model.tasks, self.batch, optimizer=self.optimizer, budget=budget)

    def busy(self, share: float) -> Run:
        """Plan beside busy loops, then compare the choice with simpler schedules."""
        budget = self.budget(share)
        with busy_loops():
            result = self.plan(budget)
        edition = result.edition
        rivals = [e for e, peak in self.peaks.items() if peak <= budget and self._order(e) < self._order(edition)]
        name, ratio = self._against(edition, rivals)
        ratios = [schedule.time_ratio for schedule in result.front]
        took = sum(result.spent.values())
        return Run(self.name, share, budget, format_edition(edition), name, ratio, min(ratios), took)

    def _order(self, edition: Edition) -> tuple[int, int, int]:
        return simplicity(edition, self.samples, len(self.model.tasks), self.peaks[edition])

    def _against(self, edition: Edition, rivals: list[Edition]) -> tuple[str, float]:
        """Time the choice and the fastest of its rivals in turns; return that rival and the ratio of the medians."""
        if not rivals:
            return "", 1.0
        with without_a_trace(self._step(edition)):
            once = {rival: min(step_seconds(self._step(rival)) for _ in range(2)) for rival in rivals}
            finalists = sorted(rivals, key=once.__getitem__)[:FINALISTS]
            seconds: dict[Edition, list[float]] = {one: [] for one in [edition, *finalists]}
            for _ in range(ROUNDS):
                for one, row in seconds.items():
                    row.append(step_seconds(self._step(one)))
        best = min(finalists, key=lambda one: median(seconds[one]))
        pairs = zip(seconds[edition], seconds[best], strict=True)
        return format_edition(best), median(mine / its for mine, its in pairs)

    def _step(self, edition: Edition) -> TrainingStep:
        return TrainingStep(self.model.trunk, self.model.tasks, self.batch, self.optimizer, edition)


@contextmanager
def busy_loops() -> Iterator[None]:
    """Keep two cores busy."""
    processes = [
        multiprocessing.get_context("spawn").Process(target=_spin, args=(os.getpid(),), daemon=True)
        for _ in range(BUSY)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _spin(parent: int) -> None:
    while os.getppid() == parent:  # a plan that is killed takes its loops with it
        pass


def main() -> None:
    """Run both parts and write the report."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=20, help="plans beside busy loops")
    arguments.add_argument("--again", type=int, default=10, help="plans of each network on the machine as it is")
    arguments.add_argument("--networks", nargs="+", default=list(MODELS), help="of the study")
    arguments.add_argument("--folder", type=Path, default=Path(__file__).parent / "busy")
    given = arguments.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    before = loads()
    subjects = [Subject(name) for name in given.networks]
    runs = []
    for number in range(given.runs):
        subject = subjects[number % len(subjects)]
        runs.append(subject.busy(SHARES[number // len(subjects) % len(SHARES)]))
        print(runs[-1], flush=True)
    again = {}
    for subject in subjects if given.again else []:
        plans = [subject.plan(subject.budget(SAME_SHARE)) for _ in range(given.again)]
        again[subject.name] = Counter(format_edition(result.edition) for result in plans)
        print(subject.name, dict(again[subject.name]), flush=True)
    write(given.folder, runs, again, noise(before, loads()))


def write(folder: Path, runs: list[Run], again: dict[str, Counter[str]], machine: str) -> None:
    """Write the report."""
    absurd = [run for run in runs if run.ratio > ABSURD]
    report = Report(
        folder,
        "Plans on a noisy clock",
        "Is a schedule ever chosen that is much slower than a simpler one that fits, where other processes take the "
        "cores in turns? Does the same command give the same plan?",
        "python -m experiments.planner.busy",
    )
    report.text(
        f"{len(absurd)} of {len(runs)} choices beside {BUSY} busy loops are absurd: more than {ABSURD} times as slow "
        "as the fastest simpler schedule that fits. Fewer pieces are simpler, then fewer passes through the trunk, "
        "then a smaller peak. The ratio is measured after the loops have ended, in turns.",
        machine,
    )
    heading = ["network", "budget", "chosen", "fastest simpler one", "of its time", "plan took"]
    rows = [
        [run.network, f"{run.share:.0%}", run.chosen, run.fastest or "–", f"{run.ratio:.2f}", f"{run.took:.1f} s"]
        for run in runs
    ]
    report.table([heading, *rows], "busy")
    if again:
        report.section("The same plan again", f"At {SAME_SHARE:.0%} of the way, one after the other.")
        rows = [
            [name, str(sum(plans.values())), "; ".join(f"{k} ({n})" for k, n in plans.items())]
            for name, plans in again.items()
        ]
        report.table([["network", "plans", "chosen (how often)"], *rows], "again")
    results = {"runs": [asdict(run) for run in runs], "again": {name: dict(plans) for name, plans in again.items()}}
    report.write(results, torch.device("cpu"))


if __name__ == "__main__":
    main()
