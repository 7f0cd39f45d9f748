"""Figures of the README's first command, and their variation.

python -m experiments.two_task.run      # from the repository's root; minutes; writes README.md and results.json beside
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.study import Report
from mtl_accum.report import editions_table

HERE, ROUNDS = Path(__file__).parent, 3
FIRST = "+experiment=two_task"


def reports(rounds: int, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run the README's first command and repeated measurements; return their reports."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + rounds):
            job = ["job=compare"] if number else []
            command = [sys.executable, "-m", "mtl_accum", FIRST, *job, *overrides, f"hydra.run.dir=run{number}"]
            environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
            subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        paths = [Path(folder) / f"run{number}" / "report.json" for number in range(1 + rounds)]
        return [json.loads(path.read_text()) for path in paths]


def measured(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of every edition, by name."""
    rows = {row["edition"]: _figures(row) for row in report["editions"]}
    first = next(iter(rows.values()))
    for row in rows.values():
        row["memory_ratio"] = row["peak_bytes"]["tensors"] / first["peak_bytes"]["tensors"]
        row["time_ratio"] = row["step_seconds"]["median"] / first["step_seconds"]["median"]
    return rows


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    steps = row["step_seconds"]
    return {
        "peak_bytes": {record["source"]: record["peak_bytes"] for record in row["memory"]},
        "step_seconds": {"median": median(steps), "low": min(steps), "high": max(steps)},
        "gradient_difference": row["gradient_difference"],
    }


def write(contents: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the page and the JSON."""
    page = Report(
        folder,
        "The first command",
        "What does it print, and how much do its figures vary when it is asked again?",
        "python -m experiments.two_task.run",
    )
    report, table = contents[0], editions_table(contents[0])
    page.text(f"`python -m mtl_accum {FIRST}`, seed {report['seed']}: one step of {report['samples']} samples.")
    page.table([table.columns, *table.rows], "editions")
    page.text(table.conclusion)
    page.items(*table.notes)
    every = [measured(one) for one in contents]
    ratios = {
        key: {name: [one[name][f"{key}_ratio"] for one in every] for name in every[0]} for key in ("time", "memory")
    }
    repeated = {
        key: {name: {"low": min(of), "high": max(of), "runs": of} for name, of in by_name.items()}
        for key, by_name in ratios.items()
    }
    page.section(
        "Asked again",
        f"The same editions measured {len(contents)} times, each time in fresh processes on a machine that others used "
        "too; smallest to largest ratio to the summed loss.",
    )
    spans = {
        name: [f"{repeated[key][name]['low']:.2f} to {repeated[key][name]['high']:.2f}" for key in ("memory", "time")]
        for name in every[0]
    }
    page.table([["edition", "memory / summed", "time / summed"], *([name, *span] for name, span in spans.items())])
    page.section("On the test data", f"After {report['training']['epochs']} epochs with `{_edition(report)}`:")
    page.table([["measure", "value"], *([name, f"{value:.4f}"] for name, value in report["metrics"].items())])
    results = {"editions": every[0], "repeated": repeated, "rounds": len(contents), "metrics": report["metrics"]}
    page.write({**results, "samples": report["samples"], "seed": report["seed"]}, torch.device("cpu"))


def _edition(report: Mapping[str, Any]) -> str:
    return str(report["config"]["edition"]["_target_"]).rpartition(".")[2]


def main() -> None:
    """Run the command, measure again and write the report."""
    write(reports(ROUNDS), HERE)


if __name__ == "__main__":
    main()
