"""Planning: from a memory budget to the fastest exact schedule."""

from mtl_accum._renamed import renamed
from mtl_accum.planning._budget import in_bytes
from mtl_accum.planning._form import Form
from mtl_accum.planning._notation import as_dict, format_edition, from_dict, overrides
from mtl_accum.planning._planner import plan
from mtl_accum.planning._result import BudgetError, LargestBatch, Plan, Schedule, Trial, schedules_of

__all__ = [
    "BudgetError",
    "Form",
    "LargestBatch",
    "Plan",
    "Schedule",
    "Trial",
    "as_dict",
    "format_edition",
    "from_dict",
    "in_bytes",
    "overrides",
    "plan",
    "schedules_of",
]

__getattr__ = renamed(
    __name__,
    {
        "spelled": "mtl_accum.planning.format_edition",
    },
)
