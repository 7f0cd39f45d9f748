"""Trainings with every edition to the same result, and with larger effective batches.

python -m experiments.same_result.run      # from the repository's root; minutes; writes README.md, results.json, PNGs
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from experiments.same_result import pictures, report
from experiments.same_result.training import CPU
from experiments.same_result.ways import Plan, batches, editions, one_thread
from experiments.study import Report

HERE, PROCESSES = Path(__file__).parent, 2


def measure(plan: Plan, processes: int = PROCESSES) -> dict[str, Any]:
    """Run every training, seed by seed in processes of one thread each.

    Returns:
        What was found of "editions" and of "batches", by name and seed.
    """
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, one_thread) as pool:
        parts = {"batches": batches, "editions": editions}  # the longer ones first
        asked = {part: [pool.submit(job, plan, seed) for seed in plan.seeds] for part, job in parts.items()}
        trained = {part: [future.result() for future in futures] for part, futures in asked.items()}
    by_name = {part: {name: [of[name] for of in seeds] for name in seeds[0]} for part, seeds in trained.items()}
    return {**by_name, "took_seconds": time.perf_counter() - started}


def write(plan: Plan, trained: dict[str, Any], folder: Path) -> list[str]:
    """Write the page, the JSON and the pictures.

    Returns:
        What should not be: editions that are claimed to give the same bits, and do not.
    """
    page = Report(folder, report.TITLE, report.QUESTION, "python -m experiments.same_result.run")
    results, broken = report.fill(page, plan, trained)
    pictures.curves(trained["editions"], folder / "curves.png")
    pictures.batches(trained["batches"], folder / "batches.png")
    page.write(results, CPU)
    return broken


def main() -> None:
    """Run the study; exit with 1 where a claim does not hold."""
    one_thread()
    plan = Plan()
    broken = write(plan, measure(plan), HERE)
    for line in broken:
        print(line, file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
