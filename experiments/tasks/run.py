"""Growth of memory and time with the number of tasks: every edition and TorchJD, measured.

python -m experiments.tasks.run            # from the repository's root; writes README.md, results.json, PNGs beside it
python -m experiments.tasks.run --device cuda --scale 32      # the same at full size on a GPU
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.load import loads, noise
from experiments.study import MIB, Report, parser
from experiments.tasks.fit import Line, fit
from experiments.tasks.measure import Cell, measure
from experiments.tasks.networks import FAMILIES
from experiments.tasks.picture import draw
from experiments.tasks.verdict import target_of_split, target_of_summed, targets_of_loss, why
from mtl_accum.training.loop import resolve_device

HERE = Path(__file__).parent
COMMAND = "python -m experiments.tasks.run"
FULL_SIZE = 32.0  # times the samples of the CPU's batches, on a GPU
NOT_DRAWN = ("torchjd by 1",)  # it would lie on the summed loss, or on the other one
STARTS = 5  # of the timed processes
MANY = 16  # tasks, from which on fewer rounds are timed
MILLISECONDS = 1000.0


def rounds(tasks: int) -> int:
    """Return the number of timed steps: fewer where a step takes long."""
    return 5 if tasks < MANY else 3


def line_of(cells: Sequence[Cell], figure: str) -> Line | None:
    """Fit a figure of one way against the number of tasks, from two tasks on."""
    values = [(cell.tasks, getattr(cell, figure)) for cell in cells if cell.tasks > 1]
    if figure == "seconds":
        values = [(tasks, median(seconds) if seconds else None) for tasks, seconds in values]
    known = [(tasks, value) for tasks, value in values if value is not None]
    return fit([tasks for tasks, _ in known], [value for _, value in known]) if known else None


def by_way(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Group the cells of a family by way."""
    return {way: [cell for cell in cells if cell.way == way] for way in dict.fromkeys(cell.way for cell in cells)}


def table_of(cells: Sequence[Cell], shown: Any) -> list[list[str]]:
    """Return a table with a row per way and a column per number of tasks."""
    ways = by_way(cells)
    heading = ["tasks", *(str(cell.tasks) for cell in next(iter(ways.values())))]
    return [heading, *([way, *(shown(cell) for cell in row)] for way, row in ways.items())]


def slopes(cells: Sequence[Cell]) -> list[list[str]]:
    """Return a table with a row per way: bytes and seconds per task, and the gradient's difference."""
    rows = [["way", "peak, bytes a task", "R²", "above the resting bytes, bytes a task", "R²"]]
    rows[0] += ["process, bytes a task", "R²", "step, ms a task", "R²", "gradient difference, at most"]
    for way, row in by_way(cells).items():
        figures = [way]
        for figure in ("peak", "above", "process", "seconds"):
            line = line_of(row, figure)
            unit = MILLISECONDS if figure == "seconds" else 1
            digits = 3 if figure == "seconds" else 0
            r2 = "–" if line is None or line.r2 is None else f"{line.r2:.4f}"
            figures += ["–" if line is None else f"{unit * line.slope:,.{digits}f}", r2]
        differences = [cell.difference for cell in row if cell.difference is not None]
        rows.append([*figures, f"{max(differences):.1e}" if differences else "–"])
    return rows


def family_report(report: Report, name: str, cells: Sequence[Cell], samples: int) -> dict[str, Any]:
    """Write a section of the report; return the fitted lines."""
    family = FAMILIES[name]
    report.section(f"{name.capitalize()} heads", f"{family.what[0].upper()}{family.what[1:]}; batch of {samples}.")
    report.text("**Peak of live tensors, MiB:**")
    report.table(table_of(cells, lambda cell: _mib(cell.peak)))
    report.text("**The same above the resting bytes, MiB:**")
    report.table(table_of(cells, lambda cell: _mib(cell.above)))
    for figure, title in {
        "process": "Rise of the process's resident memory in the step, MiB",
        "allocated": "Peak of CUDA's allocator, MiB",
        "driver": "The process's memory as NVML sees it, MiB",
    }.items():
        if any(getattr(cell, figure) is not None for cell in cells):
            report.text(f"**{title}:**")
            report.table(table_of(cells, lambda cell, figure=figure: _mib(getattr(cell, figure))))
    report.text("**Time of a step, ms, and its ratio to the summed loss's:**")
    report.table(table_of(cells, _time))
    report.text("**Lines of least squares from two tasks on:**")
    report.table(slopes(cells))
    report.text("**What the peak is, with the most tasks:**")
    last = [row[-1] for row in by_way(cells).values()]
    heading = ["way", "phase", "operator", "activations, MiB", "temporaries, MiB", "gradients, MiB"]
    rows = [
        [cell.way, cell.phase or "–", cell.operator or "–"]
        + [_mib(size) for size in (cell.activations, cell.temporaries, cell.gradients)]
        for cell in last
    ]
    report.table([heading, *rows])
    report.items(*sorted({f"{cell.way}, {cell.tasks} tasks: {cell.failure}" for cell in cells if cell.failure}))
    figures = ("peak", "above", "process", "seconds")
    lines = {way: {figure: line_of(row, figure) for figure in figures} for way, row in by_way(cells).items()}
    return {
        way: {figure: None if line is None else asdict(line) for figure, line in by_figure.items()}
        for way, by_figure in lines.items()
    }


def pictures(measured: Sequence[Cell], folder: Path) -> None:
    """Draw memory and time of both families."""
    for family in dict.fromkeys(cell.family for cell in measured):
        ways = by_way([cell for cell in measured if cell.family == family and cell.way not in NOT_DRAWN])
        peaks = {way: [(c.tasks, c.peak / MIB) for c in row if c.peak] for way, row in ways.items()}
        times = {
            way: [(c.tasks, MILLISECONDS * median(c.seconds)) for c in row if c.seconds] for way, row in ways.items()
        }
        title, axis = f"Memory of a training step, {family} heads", "peak of live tensors, MiB"
        draw(
            {k: v for k, v in peaks.items() if v}, folder / f"{family}_memory.png", title=title, axis=axis, shown=_size
        )
        title, axis = f"Time of a training step, {family} heads", "median, ms"
        draw({k: v for k, v in times.items() if v}, folder / f"{family}_time.png", title=title, axis=axis, shown=_span)


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> None:
    """Measure and write the report."""
    options = parser(__doc__, folder, f"times the samples of a batch; 1 on the CPU, {FULL_SIZE:g} on CUDA")
    options.add_argument("--tasks", type=int, help="the most tasks")
    asked = options.parse_args(arguments)
    device = resolve_device(asked.device)
    scale = asked.scale or (FULL_SIZE if device.type == "cuda" else 1.0)
    asked.folder.mkdir(parents=True, exist_ok=True)  # now, not after all the work
    before = loads()
    measured: dict[str, list[Cell]] = {}
    for name, family in FAMILIES.items():
        counts = [count for count in family.counts if asked.tasks is None or count <= asked.tasks]
        measured[name] = measure(family, counts, _samples(name, scale), rounds, device, starts=STARTS)
    write(measured, scale, device, asked.folder, (before, loads()))


def write(
    measured: Mapping[str, Sequence[Cell]],
    scale: float,
    device: torch.device,
    folder: Path,
    load: tuple[float | None, float | None],
) -> None:
    """Write the report and its pictures.

    Args:
        measured: Cells by family.
        scale: Factor on the samples.
        device: Device of the measurements.
        folder: Folder of the files.
        load: Load of the machine, before and after.
    """
    every = [cell for cells in measured.values() for cell in cells]
    pictures(every, folder)
    report = Report(folder, "Memory and time against the number of tasks", QUESTION, COMMAND)
    report.picture("dense_memory.png", "Peak memory against the number of tasks, all editions and TorchJD")
    report.section("Conclusion")
    dense = by_way(measured["dense"])
    verdicts = [target_of_split(dense["split"]), target_of_summed(dense["summed"], line_of(dense["summed"], "above"))]
    verdicts += targets_of_loss(dense["split loss"], dense["checkpointed heads"])
    report.items(*verdicts, *why(measured), noise(*load))
    report.text(HOW)
    lines = {name: family_report(report, name, cells, _samples(name, scale)) for name, cells in measured.items()}
    for name in measured:
        report.picture(f"{name}_time.png", f"Time of a step against the number of tasks, {name} heads")
    report.picture("tiny_memory.png", "Peak memory against the number of tiny heads")
    results = {"scale": scale, "load": load, "cells": [asdict(cell) for cell in every], "lines": lines}
    report.write(results, device)


def _samples(family: str, scale: float) -> int:
    return max(1, round(FAMILIES[family].samples * scale))


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:.2f}"


def _time(cell: Cell) -> str:
    if not cell.seconds:
        return "–"
    ratio = "" if cell.ratio is None else f" ({cell.ratio:.2f})"
    return f"{MILLISECONDS * median(cell.seconds):.1f}{ratio}"


def _size(mib: float) -> str:
    return f"{mib:.3g} MiB" if mib < 1024 else f"{mib / 1024:.3g} GiB"


def _span(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < MILLISECONDS else f"{milliseconds / MILLISECONDS:.2f} s"


QUESTION = (
    "How do the peak memory and the time of a training step grow with the number of tasks, under every edition and "
    "under TorchJD's `mtl_backward` with `Sum`, and with each head under `torch.utils.checkpoint`?"
)
HOW = (
    "**How.** One optimizer step (AdamW) after two to warm up. *Resting bytes* are parameters, as many for their "
    "gradients, optimizer state and the batch: what is there under any schedule, and grows with the number of tasks"
    " by itself. Live tensors are counted to the byte; the process's memory is what it rises by in the step. A way "
    "has one process that is weighed and five that are timed, for all numbers of tasks in ascending order; on the CPU"
    " the timed processes of all ways take turns with their steps. They are started five times, because where a "
    "process's memory lies shifts its times by several percent; a ratio is the median over all rounds. *Split by 16* "
    "is `Split(heads_per_graph=16)`, *cached* cuts the batch into four chunks, *checkpointed* and *offloaded* are "
    "around `Split()`. *Split loss* is `total, losses = Split().loss(...)` and `total.backward()`, what a trainer "
    "runs; the copy of the heads' gradients that it holds until then is as large as the `.grad` among the resting "
    "bytes, which are not there yet. *Checkpointed heads* is the summed loss with each head under "
    "`torch.utils.checkpoint`, which takes one line in anybody's loop. *torchjd* is `mtl_backward(losses, "
    "features=z)` and `jac_to_grad(shared, Sum())`, as documented, *torchjd by 1* the same with "
    "`parallel_chunk_size=1`, a trunk backward a task and no vmap; both are made for aggregators that need a "
    "gradient of each task, which the sum does not."
)

if __name__ == "__main__":
    main()
