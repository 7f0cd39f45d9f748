"""Reports: from plain records (what `report.json` holds) to tables, pages and pictures.

Imports neither torch nor anything else of this package.
"""

from mtl_accum.report._console import show, show_path, show_plan, show_table
from mtl_accum.report._escape import file_name
from mtl_accum.report._markdown import markdown, metrics_table
from mtl_accum.report._pictures import pictures
from mtl_accum.report._plan import plan_markdown
from mtl_accum.report._read import VERSION
from mtl_accum.report._rebuild import rebuild
from mtl_accum.report._sweep import write_sweep
from mtl_accum.report._table import Table, editions_table, markdown_table, mib
from mtl_accum.report._write import timestamp, write, write_evaluation, write_failure, write_plan, write_whole

__all__ = [
    "VERSION",
    "Table",
    "editions_table",
    "file_name",
    "markdown",
    "markdown_table",
    "metrics_table",
    "mib",
    "pictures",
    "plan_markdown",
    "rebuild",
    "show",
    "show_path",
    "show_plan",
    "show_table",
    "timestamp",
    "write",
    "write_evaluation",
    "write_failure",
    "write_plan",
    "write_sweep",
    "write_whole",
]
