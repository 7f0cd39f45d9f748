"""Terminal output of reports and plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from mtl_accum.report._breakdown import breakdown_table, category_notes
from mtl_accum.report._markdown import batch, device, figure, steps
from mtl_accum.report._plan_tables import plan_conclusion, plan_sections
from mtl_accum.report._table import editions_table, markdown_table

__all__ = ["show", "show_path", "show_plan", "show_table"]


def show(report: Mapping[str, Any], folder: Path) -> None:
    """Print the metrics of a report, its tables with their notes, and its conclusion last."""
    console = _console()
    table, categories = editions_table(report), breakdown_table(report)
    if "training" in report:
        training, metrics = report["training"], report["metrics"].items()
        console.print(f"Trained {steps(training)} steps in {training['seconds']:.1f} s on {device(report)}.")
        console.print("Test data: " + ", ".join(f"{name} {figure(value)}" for name, value in metrics))
    else:
        console.print(f"One training step, {device(report)}.")
    console.print(batch(report))
    for cells in filter(None, ([table.columns, *table.rows], categories)):
        console.print()
        _print_table(console, cells)
    console.print()
    for note in (*table.notes, *category_notes(categories)):
        console.print(f"  {note}")
    console.print()
    console.print(table.conclusion)
    console.print(f"Report: {_short(folder)}")


def show_plan(plan: Mapping[str, Any], folder: Path) -> None:
    """Print the sections of a plan, and its conclusion last, next to the prompt."""
    console = _console()
    for section in plan_sections(plan):
        console.print(section.title)
        if section.table:
            _print_table(console, section.table)
        for line in section.lines:
            console.print(f"  {line}")
        console.print()
    for line in plan_conclusion(plan):
        console.print(line)
    console.print(f"Plan: {_short(folder)}")


def show_path(name: str, path: Path) -> None:
    """Print the name of something that was written, and its path."""
    _console().print(f"{name}: {_short(path)}")


def show_table(cells: list[list[str]], lines: list[str]) -> None:
    """Print a table and the lines below it."""
    console = _console()
    _print_table(console, cells)
    for line in lines:
        console.print(line)


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def _print_table(console: Console, cells: list[list[str]]) -> None:
    if not console.is_terminal:
        console.print("\n".join(markdown_table(cells)))
        return
    table = RichTable(*cells[0])
    for column in table.columns[1:]:
        column.justify = "right"
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def _short(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
