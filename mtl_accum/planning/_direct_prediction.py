"""Direct prediction of single schedules: by a run of their own, without data or on the device."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from mtl_accum.editions import Edition
from mtl_accum.memory import Build, Parts, PeakMemory, TrainingStep
from mtl_accum.planning._device_run import DeviceRun
from mtl_accum.planning._progress import Progress
from mtl_accum.planning._ranking import Candidate
from mtl_accum.prediction import DryRun, predicted

__all__ = ["DirectPredictions", "by_formula", "peak_of"]

PATIENCE = 30.0  # seconds for a direct prediction; one that would take longer is replaced by the formula


class DirectPredictions:
    """Predicts schedules inside its block, each schedule once; the network itself must not run inside the block.

    Args:
        parts: Trunk, tasks, batch and optimizer, or a function that builds them.
        measured: Step of the network where schedules have to run on the device; None where they run without data.
        cuda: Whether the plan is for a GPU.
        seconds_per_phase: Seconds that a phase takes in such a run.
        progress: Progress of the plan.
    """

    def __init__(
        self,
        parts: Parts | Build,
        measured: TrainingStep | None,
        *,
        cuda: bool,
        seconds_per_phase: float,
        progress: Progress,
    ) -> None:
        self._parts, self._measured, self._cuda = parts, measured, cuda
        self._seconds_per_phase, self._progress = seconds_per_phase, progress
        self._peaks: dict[Edition, PeakMemory] = {}
        self._contexts = ExitStack()
        self._dry_run: DryRun | None = None

    def __enter__(self) -> Self:
        """Open the block; the dry run starts with the first prediction, since it may never be needed."""
        self._contexts = ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the dry run, if there is one."""
        self._dry_run = None
        self._contexts.__exit__(kind, error, trace)

    @property
    def out_of_patience(self) -> bool:
        """Whether predictions have taken so long that only indispensable ones should be added."""
        return self._progress.spent.get("predicting", 0.0) > PATIENCE

    def predict(self, candidate: Candidate) -> PeakMemory:
        """Predict the peak of a candidate; by the formula where a run would take too long or memory runs out."""
        if candidate.edition not in self._peaks:
            with self._progress.stage("predicting"):
                self._peaks[candidate.edition] = self._run(candidate)
        return self._peaks[candidate.edition]

    def _run(self, candidate: Candidate) -> PeakMemory:
        seconds = candidate.estimate.phases * self._seconds_per_phase
        if seconds > PATIENCE:
            reason = f"by the formula: a direct prediction, by category, would take {seconds:.0f} s"
            return by_formula(candidate, reason, cuda=self._cuda)
        if self._measured is None:
            return predicted(self._opened_dry_run(), candidate.edition, cuda=self._cuda)[0]
        with DeviceRun(self._measured) as run:
            record = run.record(candidate.edition)
        if record is None:
            estimated = by_formula(candidate, "memory ran out", cuda=self._cuda)
            return dataclasses.replace(estimated, peak_bytes=2**63 - 1)  # more than any budget
        return record

    def _opened_dry_run(self) -> DryRun:
        if self._dry_run is None:
            self._dry_run = self._contexts.enter_context(DryRun(self._parts, cuda=self._cuda))
        return self._dry_run


def by_formula(candidate: Candidate, reason: str, *, cuda: bool) -> PeakMemory:
    """Return a candidate's estimate as a record.

    Args:
        candidate: Candidate schedule.
        reason: Reason why there is no better figure, for the record's caveats.
        cuda: Whether the plan is for a GPU.
    """
    return PeakMemory(
        source="predicted",
        device="cuda" if cuda else "cpu",
        peak_bytes=candidate.estimate.peak_bytes,
        base_bytes=None,
        end_bytes=None,
        edition=repr(candidate.edition),
        peak_phase=candidate.estimate.peak_phase,
        caveats=(reason,),
    )


def peak_of(record: PeakMemory) -> int:
    """Return the peak of a prediction, which always has one."""
    assert record.peak_bytes is not None
    return record.peak_bytes
