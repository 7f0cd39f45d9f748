"""What a plan is: the schedule, why it was chosen, and what else there was."""

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


_RUNG = 0.9


class BudgetError(ValueError):
    """No exact schedule fits into the budget; the message says what holds the memory, and what would help."""


@dataclass(frozen=True)
class Schedule:
    """One way to compute the gradient, and what it would need.

    Attributes:
        edition: computes the gradient.
        peak_bytes: predicted, of live tensors.
        time_ratio: predicted seconds of a step, relative to `SummedLoss`.
    """

    edition: Edition
    peak_bytes: int
    time_ratio: float


@dataclass
class Trial:
    """One schedule on the real device, whole steps with the optimizer.

    Attributes:
        edition: the schedule.
        peak_bytes: of one step; None where memory ran out.
        fits: whether that is within the budget.
        step_seconds: of the timed steps, by round; empty if it does not fit.
        tie: whether it cannot be told from the one that was chosen.
        note: why it has no peak, other than that memory ran out.
    """

    edition: Edition
    peak_bytes: int | None
    fits: bool
    step_seconds: list[float] = field(default_factory=list)
    tie: bool = False
    note: str = ""

    @property
    def seconds(self) -> float:
        """Of a step, the median."""
        return median(self.step_seconds)


@dataclass(frozen=True)
class LargestBatch:
    """How far one kind of schedule reaches.

    Attributes:
        edition: of its kind, the one that needs least.
        samples: of the largest batch that is predicted to fit; None if its size does not matter.
    """

    edition: Edition
    samples: int | None


@dataclass(frozen=True)
class Plan:
    """A schedule for a memory budget. All sizes in bytes.

    Attributes:
        budget: what the live tensors of a step may take.
        device: that it is for.
        samples: of the batch; 1 if it cannot be cut.
        chosen: the fastest exact schedule that fits; None if none does.
        peak: its prediction; of the smallest schedule that exists if none fits.
        summed: what the summed loss would need.
        front: no schedule is both faster and smaller than one of these; fastest first.
        candidates: how many there were.
        left_out: what cannot be exact here or makes no sense, and why.
        largest_batch: by the kind of schedule.
        timed_by: "timings of the pieces" or "operation counts".
        trials: schedules that ran for real, with their measured peak and time.
        holds: what no schedule can do without, by name.
        advice: what would help if nothing fits.
        spent: seconds that the plan took, by what it did.
        exactness: by the schedule on a few samples, how far it is from `SummedLoss`, or why that was not checked.
        notes: what else a reader must know.
        form: how the training loop takes a schedule; in that of a loss, schedules are `AsLoss(...)`, which is what ran.
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
        """The chosen schedule; in the form of a loss, the one to call `.loss` on.

        Raises:
            BudgetError: none fits.
        """
        return without_form(self._runs().edition)

    @property
    def overrides(self) -> list[str]:
        """What to write on the command line in place of `edition=auto`; raises as `edition` does."""
        return overrides(self._runs().edition)

    @property
    def fallbacks(self) -> tuple[Schedule, ...]:
        """What to go on with if memory runs out all the same, fastest first; each needs a tenth less than the last."""
        if self.chosen is None:
            return ()
        failed = [trial.edition for trial in self.trials if not trial.fits]
        found, limit = [], _RUNG * self.chosen.peak_bytes
        for schedule in self.front:
            if schedule.peak_bytes <= limit and schedule.edition not in failed:
                found.append(schedule)
                limit = _RUNG * schedule.peak_bytes
        return tuple(found)

    def __str__(self) -> str:
        return "\n".join(plan_markdown(self.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        """The plan in plain values, as JSON and a checkpoint can hold them; an edition is what Hydra instantiates."""
        return {
            "budget": asdict(self.budget),
            "device": self.device,
            "samples": self.samples,
            "form": self.form,
            "chosen": None if self.chosen is None else self._answer(self.chosen),
            "peak": asdict(self.peak),
            "summed": _row(self.summed),
            "front": [_row(schedule) for schedule in self.front],
            "fallbacks": [_row(schedule) for schedule in self.fallbacks],
            "candidates": self.candidates,
            "left_out": dict(self.left_out),
            "largest_batch": [{**_written(row.edition), "samples": row.samples} for row in self.largest_batch],
            "timed_by": self.timed_by,
            "trials": [
                {
                    **_written(trial.edition),
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

    def _runs(self) -> Schedule:
        if self.chosen is None:
            raise BudgetError(self._why_not())
        return self.chosen

    def _answer(self, chosen: Schedule) -> dict[str, Any]:
        call = {"call": call_of(format_edition(self.edition))} if self.form == "loss" else {}
        return {**_row(chosen), "overrides": self.overrides, **call}

    def _why_not(self) -> str:
        held = ", ".join(f"{name} {mib(size)}" for name, size in self.holds.items())
        return (
            f"budget: expected at least {mib(self.peak.peak_bytes or 0)}, the smallest peak that an exact schedule "
            f"has here, found {mib(self.budget.size)} ({self.budget.words}); no schedule can do without {held}; "
            f"what would help: {'; '.join(self.advice)}"
        )


def schedules_of(written: dict[str, Any]) -> list[Edition]:
    """The schedules of a plan that was written down: the chosen one, then its fallbacks.

    Raises:
        ValueError: it is no plan, or none of its schedules fitted.
    """
    rows = [written.get("chosen"), *written.get("fallbacks", [])]
    if not isinstance(rows[0], dict):
        raise ValueError("plan: expected a schedule under 'chosen', found none")
    return [from_dict(row["edition"]) for row in rows]


def _row(schedule: Schedule) -> dict[str, Any]:
    return {
        **_written(schedule.edition),
        "peak_bytes": schedule.peak_bytes,
        "time_ratio": schedule.time_ratio,
    }


def _written(edition: Edition) -> dict[str, Any]:
    return {"schedule": format_edition(edition), "edition": as_dict(edition)}
