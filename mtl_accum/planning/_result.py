"""Result of a plan: the chosen schedule, the alternatives, and the figures behind the choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mtl_accum.editions import Edition
from mtl_accum.memory import PeakMemory
from mtl_accum.planning._budget import Budget
from mtl_accum.planning._form import Form, call_of, without_form
from mtl_accum.planning._notation import as_dict, format_edition, from_dict, overrides
from mtl_accum.report import mib, plan_markdown

__all__ = ["BudgetError", "LargestBatch", "Plan", "Schedule", "Trial", "schedules_of"]


_FALLBACK_SHARE = 0.9  # most of the schedule before it that a fallback's peak may be


class BudgetError(ValueError):
    """No exact schedule fits into the budget; the message lists what needs the memory, and what would help."""


@dataclass(frozen=True)
class Schedule:
    """Schedule with its predicted memory and time.

    Attributes:
        edition: Edition that computes the gradient.
        peak_bytes: Predicted peak of live tensors, in bytes.
        time_ratio: Predicted time of a step relative to `SummedLoss`; measured for a chosen schedule that ran.
    """

    edition: Edition
    peak_bytes: int
    time_ratio: float


@dataclass
class Trial:
    """Trial of a schedule on the device: whole steps with the optimizer.

    Attributes:
        edition: Edition that computes the gradient.
        peak_bytes: Measured peak of one step, in bytes; None where memory ran out or the step was given up.
        fits: Whether the peak is within the budget.
        step_seconds: Seconds of the timed steps, by round; empty if the schedule does not fit.
        tie: Whether its time cannot be distinguished from the chosen schedule's.
        note: Reason for a missing peak other than a lack of memory.
    """

    edition: Edition
    peak_bytes: int | None
    fits: bool
    step_seconds: list[float] = field(default_factory=list)
    tie: bool = False
    note: str = ""

    @property
    def seconds(self) -> float:
        """Median seconds of a step."""
        return median(self.step_seconds)


@dataclass(frozen=True)
class LargestBatch:
    """Largest batch that a kind of schedule fits into the budget.

    Attributes:
        edition: Edition of that kind with the smallest peak.
        samples: Number of samples of the largest batch that is predicted to fit; None if any batch does.
    """

    edition: Edition
    samples: int | None


@dataclass(frozen=True)
class Plan:
    """Schedule for a memory budget. All sizes are in bytes.

    Attributes:
        budget: Limit for the live tensors of a step.
        device: Device that the plan is for.
        samples: Number of samples of the batch; 1 if it cannot be cut.
        chosen: Fastest exact schedule that fits; None if none does.
        peak: Prediction for the chosen schedule, or for the one with the smallest peak if none fits.
        summed: Memory of `SummedLoss`.
        front: Pareto front: the schedules to which no other is both faster and smaller, fastest first.
        candidates: Number of candidate schedules.
        left_out: Reasons by kind of schedule, or single schedule, that is not exact here or makes no sense.
        largest_batch: Largest batch by kind of schedule.
        timed_by: Source of the seconds: "timings of the parts" or "operation counts".
        trials: Schedules that ran on the device, with their measured peak and time.
        holds: Memory that every schedule needs, by name.
        advice: Changes that would help if nothing fits.
        spent: Seconds that the plan took, by stage.
        exactness: Difference from `SummedLoss` on a few samples, or the reason why it was not checked, by schedule.
        notes: Restrictions of the plan, such as tasks without a target.
        form: How the training loop calls a schedule. In the form of a loss, schedules are `AsLoss(...)`.
    """

    budget: Budget
    device: str
    samples: int
    chosen: Schedule | None
    peak: PeakMemory
    summed: Schedule
    front: tuple[Schedule, ...]
    candidates: int
    left_out: dict[str, str]
    largest_batch: tuple[LargestBatch, ...]
    timed_by: str
    trials: tuple[Trial, ...] = ()
    holds: dict[str, int] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    spent: dict[str, float] = field(default_factory=dict)
    exactness: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    form: Form = "forward_backward"

    @property
    def edition(self) -> Edition:
        """The chosen edition; in the form of a loss, the one whose `.loss` the training loop calls.

        Raises:
            BudgetError: No schedule fits.
        """
        return without_form(self._require_chosen().edition)

    @property
    def overrides(self) -> list[str]:
        """Command-line overrides that replace `edition=auto`.

        Raises:
            BudgetError: No schedule fits.
        """
        return overrides(self._require_chosen().edition)

    @property
    def fallbacks(self) -> tuple[Schedule, ...]:
        """Schedules to continue with if memory runs out, fastest first; each needs a tenth less than the one before."""
        if self.chosen is None:
            return ()
        failed = [trial.edition for trial in self.trials if not trial.fits]
        schedules, limit = [], _FALLBACK_SHARE * self.chosen.peak_bytes
        for schedule in self.front:
            if schedule.peak_bytes <= limit and schedule.edition not in failed:
                schedules.append(schedule)
                limit = _FALLBACK_SHARE * schedule.peak_bytes
        return tuple(schedules)

    def __str__(self) -> str:
        return "\n".join(plan_markdown(self.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for JSON and checkpoints; editions are configurations for Hydra."""
        return {
            "budget": asdict(self.budget),
            "device": self.device,
            "samples": self.samples,
            "form": self.form,
            "chosen": None if self.chosen is None else self._chosen_row(self.chosen),
            "peak": asdict(self.peak),
            "summed": _row(self.summed),
            "front": [_row(schedule) for schedule in self.front],
            "fallbacks": [_row(schedule) for schedule in self.fallbacks],
            "candidates": self.candidates,
            "left_out": dict(self.left_out),
            "largest_batch": [{**_edition_row(row.edition), "samples": row.samples} for row in self.largest_batch],
            "timed_by": self.timed_by,
            "trials": [
                {
                    **_edition_row(trial.edition),
                    "peak_bytes": trial.peak_bytes,
                    "fits": trial.fits,
                    "step_seconds": list(trial.step_seconds),
                    "tie": trial.tie,
                    "note": trial.note,
                }
                for trial in self.trials
            ],
            "holds": dict(self.holds),
            "advice": list(self.advice),
            "spent": dict(self.spent),
            "exactness": dict(self.exactness),
            "notes": list(self.notes),
        }

    def _require_chosen(self) -> Schedule:
        if self.chosen is None:
            raise BudgetError(self._budget_message())
        return self.chosen

    def _chosen_row(self, chosen: Schedule) -> dict[str, Any]:
        call = {"call": call_of(format_edition(self.edition))} if self.form == "loss" else {}
        return {**_row(chosen), "overrides": self.overrides, **call}

    def _budget_message(self) -> str:
        needed = ", ".join(f"{name} {mib(size)}" for name, size in self.holds.items())
        return (
            f"budget: expected at least {mib(self.peak.peak_bytes or 0)}, the smallest peak of an exact "
            f"schedule here, found {mib(self.budget.size)} ({self.budget.words}); every schedule needs {needed}; "
            f"what would help: {'; '.join(self.advice)}"
        )


def schedules_of(plan: dict[str, Any]) -> list[Edition]:
    """Return the schedules of a plan from its `as_dict`: the chosen one, then its fallbacks.

    Args:
        plan: Plain values of a plan.

    Raises:
        ValueError: The values are no plan, or no schedule fitted.
    """
    rows = [plan.get("chosen"), *plan.get("fallbacks", [])]
    if not isinstance(rows[0], dict):
        raise ValueError("plan: expected a schedule under 'chosen', found none")
    return [from_dict(row["edition"]) for row in rows]


def _row(schedule: Schedule) -> dict[str, Any]:
    return {
        **_edition_row(schedule.edition),
        "peak_bytes": schedule.peak_bytes,
        "time_ratio": schedule.time_ratio,
    }


def _edition_row(edition: Edition) -> dict[str, Any]:
    return {"schedule": format_edition(edition), "edition": as_dict(edition)}
