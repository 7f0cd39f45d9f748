"""Planning: from a memory budget to the fastest exact schedule."""

from mtl_accum._renamed import renamed
from mtl_accum.planning._budget import in_bytes
from mtl_accum.planning._form import Form
from mtl_accum.planning._formula import Tables, estimate, phases
from mtl_accum.planning._measure_costs import measure_costs
from mtl_accum.planning._notation import as_dict, format_edition, from_dict, overrides
from mtl_accum.planning._planner import plan
from mtl_accum.planning._result import BudgetError, LargestBatch, Plan, Schedule, Trial, schedules_of
from mtl_accum.planning._schedule_space import candidates, left_out
from mtl_accum.planning._simplicity import simplicity
from mtl_accum.planning._timings import step_seconds

__all__ = [
    "BudgetError",
    "Form",
    "LargestBatch",
    "Plan",
    "Schedule",
    "Tables",
    "Trial",
    "as_dict",
    "candidates",
    "estimate",
    "format_edition",
    "from_dict",
    "in_bytes",
    "left_out",
    "measure_costs",
    "overrides",
    "phases",
    "plan",
    "schedules_of",
    "simplicity",
    "step_seconds",
]

__getattr__ = renamed(
    __name__,
    {
        "spelled": "mtl_accum.planning.format_edition",
    },
)
