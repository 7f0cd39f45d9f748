"""Reports: tables, pages and pictures of plain records, as `report.json` holds them.

This package imports neither torch nor other packages of the project.
"""

import warnings
from importlib import import_module
from typing import Any

from mtl_accum.report._console import show, show_path, show_plan, show_table
from mtl_accum.report._escape import file_name, plain
from mtl_accum.report._markdown import markdown, metrics_table
from mtl_accum.report._pareto import pareto_front
from mtl_accum.report._pictures import pictures
from mtl_accum.report._plan_tables import plan_markdown
from mtl_accum.report._read import VERSION, read
from mtl_accum.report._sweep import knobs, row_of, write_rows, write_sweep
from mtl_accum.report._table import Table, editions_table, markdown_table, mib, milliseconds, plain_table, step_time
from mtl_accum.report._write import timestamp, write, write_evaluation, write_failure, write_plan, write_whole

__all__ = [
    "VERSION",
    "Table",
    "editions_table",
    "file_name",
    "knobs",
    "markdown",
    "markdown_table",
    "metrics_table",
    "mib",
    "milliseconds",
    "pareto_front",
    "pictures",
    "plain",
    "plain_table",
    "plan_markdown",
    "read",
    "row_of",
    "show",
    "show_path",
    "show_plan",
    "show_table",
    "step_time",
    "timestamp",
    "write",
    "write_evaluation",
    "write_failure",
    "write_plan",
    "write_rows",
    "write_sweep",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    """Resolve the former name of a job; without `_renamed`, which this package does not import."""
    if name != "rebuild":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("mtl_accum.report.rebuild is now mtl_accum.jobs.rebuild", FutureWarning, stacklevel=2)
    return import_module("mtl_accum.jobs").rebuild
