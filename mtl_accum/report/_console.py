"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from mtl_accum.report._markdown import device, figure, markdown_table, steps
from mtl_accum.report._table import editions_table

__all__ = ["show"]


def show(report: Mapping[str, Any], folder: Path) -> None:
    """Print what a person wants to see first: metrics, the table, what it means, and the conclusion."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    table = editions_table(report)
    training = report["training"]
    console.print(f"Trained {steps(training)} steps in {training['seconds']:.1f} s on {device(report)}.")
    console.print("Test data: " + ", ".join(f"{name} {figure(value)}" for name, value in report["metrics"].items()))
    console.print()
    if console.is_terminal:
        rich_table = RichTable(*table.columns)
        for column in rich_table.columns[1:]:
            column.justify = "right"
        for row in table.rows:
            rich_table.add_row(*row)
        console.print(rich_table)
    else:
        console.print("\n".join(markdown_table([table.columns, *table.rows])))
    console.print()
    for note in table.notes:
        console.print(f"  {note}")
    console.print()
    console.print(table.conclusion)
    console.print(f"Report: {_short(folder)}")


def _short(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
