"""The peak of a single schedule by a run of its own: on tensors without data, or on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from mtl_accum.editions import Edition
from mtl_accum.memory import Build, Parts, PeakMemory, TrainingStep
from mtl_accum.planning._choice import Candidate
from mtl_accum.planning._clock import Clock
from mtl_accum.planning._on_device import OnDevice
from mtl_accum.prediction import DryRun, predicted

__all__ = ["Direct", "by_formula", "peak_of"]

PATIENCE = 30.0  # seconds for a direct prediction; where it would take longer, the formula is believed


class Direct:
    """Predicts schedules one by one, each once.

    Args:
        parts: Trunk, tasks, batch and optimizer, or what builds them.
        measured: A step of the network where schedules have to run on the device; None where they run without data.
        cuda: Whether the plan is for a GPU.
        seconds_per_phase: How long a phase takes in such a run.
        clock: Counts the seconds.
    """

    def __init__(
        self, parts: Parts | Build, measured: TrainingStep | None, *, cuda: bool, seconds_per_phase: float, clock: Clock
    ) -> None:
        self._parts, self._measured, self._cuda = parts, measured, cuda
        self._pace, self._clock = seconds_per_phase, clock
        self._peaks: dict[Edition, PeakMemory] = {}

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Candidate], PeakMemory]]:
        """Yield a function that predicts an option; nothing real may run inside the block."""
        with ExitStack() as stack:
            opened: list[DryRun] = []

            def rehearsal() -> DryRun:
                if not opened:
                    opened.append(stack.enter_context(DryRun(self._parts, cuda=self._cuda)))
                return opened[0]

            def direct(option: Candidate) -> PeakMemory:
                if option.edition not in self._peaks:
                    with self._clock("predicting"):
                        self._peaks[option.edition] = self._run(option, rehearsal)
                return self._peaks[option.edition]

            yield direct

    @property
    def tired(self) -> bool:
        """Whether predictions have taken so long that no more should be made where the formula says enough."""
        return self._clock.spent.get("predicting", 0.0) > PATIENCE

    def _run(self, option: Candidate, rehearsal: Callable[[], DryRun]) -> PeakMemory:
        seconds = option.estimate.phases * self._pace
        if seconds > PATIENCE:
            why = f"by the formula of the pieces: a direct prediction, by category, would take {seconds:.0f} s"
            return by_formula(option, why, cuda=self._cuda)
        if self._measured is None:
            return predicted(rehearsal(), option.edition, cuda=self._cuda)[0]
        with OnDevice(self._measured) as stage:
            record = stage.record(option.edition)
        if record is None:  # more than there is
            return dataclasses.replace(by_formula(option, "memory ran out", cuda=self._cuda), peak_bytes=2**63 - 1)
        return record


def by_formula(option: Candidate, why: str, *, cuda: bool) -> PeakMemory:
    """Return what the formula says of an option's memory.

    Args:
        option: The schedule with its estimate.
        why: Why there is nothing better, as a caveat.
        cuda: Whether the plan is for a GPU.
    """
    return PeakMemory(
        *("predicted", "cuda" if cuda else "cpu"),
        peak_bytes=option.estimate.peak_bytes,
        base_bytes=None,
        end_bytes=None,
        edition=repr(option.edition),
        peak_phase=option.estimate.peak_phase,
        caveats=(why,),
    )


def peak_of(record: PeakMemory) -> int:
    """Return the peak of a prediction, which always has one."""
    assert record.peak_bytes is not None
    return record.peak_bytes
