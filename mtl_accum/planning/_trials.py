"""Trials of the best candidates on the device: whole steps, measured one by one, then timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mtl_accum.editions import Split, SummedLoss
from mtl_accum.editions._engine import Kind, listen
from mtl_accum.memory import CudaMeter, Meter, Parts, TrainingStep
from mtl_accum.planning import _timings
from mtl_accum.planning._fastest import fastest
from mtl_accum.planning._form import without_form
from mtl_accum.planning._ranking import CLOSE, Candidate
from mtl_accum.planning._result import Trial
from mtl_accum.planning._simplicity import simplicity
from mtl_accum.planning._timings import completes, step_seconds

__all__ = ["run_trials"]

_FASTEST = 6  # most candidates that run because the formula calls them fast
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 20  # fewer than five rounds cannot tell one schedule from another
_TOO_SLOW = 3.0  # factor of another candidate's measured step after which a step is given up
_LEAST_LIMIT = 4.0  # seconds that a measured step may take in any case
_DROPPED = 2.0  # factor of the fastest first round above which a candidate is not timed again, where rounds are slow


def run_trials(parts: Parts, candidates: Sequence[Candidate], budget: int, samples: int) -> list[Trial]:
    """Run whole steps of the best candidates: one of each under a meter, then those that fit in turns by the clock.

    The fastest by the formula run, and so do the simplest of each kind with `SummedLoss` and `Split`: where the
    formula's seconds are wrong, a simple schedule is still there to be chosen.

    Args:
        parts: Trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        candidates: Candidates, fastest first.
        budget: Budget in bytes.
        samples: Number of samples of the batch.

    Returns:
        All trials: the schedule to choose, those that are as fast within the noise, the others that fit, fastest
        first; then those that do not fit.
    """
    tasks = len(parts[1])
    trials = _measure_peaks(parts, _select(candidates, samples, tasks), candidates, budget)
    fitting = [trial for trial in trials if trial.fits]
    fitting.sort(key=lambda trial: simplicity(trial.edition, samples, tasks, trial.peak_bytes or 0))
    if fitting:
        timed = _time_in_turns(parts, fitting)
        choice, ties = fastest([trial.step_seconds for trial in timed])
        for index in ties:
            timed[index].tie = True
        first = timed[choice]
        fitting.sort(key=lambda trial: (trial is not first, not trial.tie, trial.seconds))
    return fitting + [trial for trial in trials if not trial.fits]


def _select(candidates: Sequence[Candidate], samples: int, tasks: int) -> list[Candidate]:
    """Choose the candidates to run in any case: the fastest by the formula, and simpler ones."""

    def order(candidate: Candidate) -> tuple[int, int, int]:
        return simplicity(candidate.edition, samples, tasks, candidate.estimate.peak_bytes)

    limit = CLOSE * candidates[0].estimate.seconds
    close = [candidate for candidate in candidates if candidate.estimate.seconds <= limit][:_FASTEST]
    simplest: dict[object, Candidate] = {}
    for candidate in sorted(candidates, key=order):
        edition = without_form(candidate.edition)
        simplest.setdefault(edition if _is_plain(candidate) else type(edition), candidate)
    most_complex = max(map(order, close))
    simple = [c for c in simplest.values() if c not in close and (order(c) < most_complex or _is_plain(c))]
    return [*simple, *close]


def _is_plain(candidate: Candidate) -> bool:
    return without_form(candidate.edition) in (SummedLoss(), Split())


def _measure_peaks(
    parts: Parts, selected: Sequence[Candidate], candidates: Sequence[Candidate], budget: int
) -> list[Trial]:
    """Measure a step of each selected candidate; where none fits, of the other candidates until one does."""
    trials: list[Trial] = []
    limit = math.inf
    for candidate in [*selected, *(candidate for candidate in candidates if candidate not in selected)]:
        if len(trials) >= len(selected) and any(trial.fits for trial in trials):
            break
        began = time.perf_counter()
        peak, note = _measure_peak(TrainingStep(*parts, candidate.edition), limit)
        trials.append(Trial(candidate.edition, peak, fits=peak is not None and peak <= budget, note=note))
        if peak is not None:
            limit = min(limit, max(_LEAST_LIMIT, _TOO_SLOW * (time.perf_counter() - began)))
    return trials


def _time_in_turns(parts: Parts, trials: Sequence[Trial]) -> list[Trial]:
    """Time a step of each trial, round by round; return those that ran in every round."""
    running = list(trials)
    deadline = time.perf_counter() + _timings.PATIENCE
    for turn in range(_MOST_ROUNDS):
        for trial in running:
            trial.step_seconds.append(step_seconds(TrainingStep(*parts, trial.edition)))
        late = time.perf_counter() > deadline
        if late and turn == 0:
            least = min(trial.step_seconds[0] for trial in running)
            running = [trial for trial in running if trial.step_seconds[0] <= _DROPPED * least]
        if late and turn + 1 >= _LEAST_ROUNDS:
            break
    return running


class _TooSlowError(Exception):
    """A step exceeded its time limit."""


class _TimeLimit:
    """Ends a step at the next start of a phase once its time is over.

    Args:
        seconds: Seconds from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def begin(self, name: str, kind: Kind) -> None:
        """Raise `_TooSlowError` if the time is over."""
        if time.perf_counter() > self._end:
            raise _TooSlowError

    def end(self) -> None:
        """Do nothing."""


def _measure_peak(step: TrainingStep, limit: float) -> tuple[int | None, str]:
    """Measure the peak of a step whose optimizer has its state.

    Args:
        step: Step to run.
        limit: Seconds that it may take.

    Returns:
        The peak in bytes, or None if memory ran out or time was over; and a note on the latter.
    """
    try:
        with listen(_TimeLimit(limit)):
            if step.optimizer is not None and not step.optimizer.state and not completes(step):
                return None, ""
            meter: Meter = CudaMeter(step.device) if step.device.type == "cuda" else step.tensor_meter()
            with meter:
                completed = completes(step)
    except _TooSlowError:
        step.zero_grad()
        return None, f"given up after {limit:.0f} s"
    return (meter.result().peak_bytes if completed else None), ""
