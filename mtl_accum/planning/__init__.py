"""A memory budget in, the fastest exact schedule out."""

from mtl_accum.planning._form import Form
from mtl_accum.planning._notation import as_dict, from_dict, overrides, spelled
from mtl_accum.planning._plan import plan
from mtl_accum.planning._record import BudgetError, LargestBatch, Plan, Schedule, Trial, schedules_of

__all__ = [
    "BudgetError",
    "Form",
    "LargestBatch",
    "Plan",
    "Schedule",
    "Trial",
    "as_dict",
    "from_dict",
    "overrides",
    "plan",
    "schedules_of",
    "spelled",
]
