"""Whole steps of the best schedules on the real device: weighed one by one, then timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mtl_accum.editions import Split, SummedLoss
from mtl_accum.editions._engine import Kind, listen
from mtl_accum.memory import CudaMeter, Meter, Parts, TrainingStep
from mtl_accum.planning import _timings
from mtl_accum.planning._choice import CLOSE, Candidate
from mtl_accum.planning._fastest import fastest
from mtl_accum.planning._form import without_form
from mtl_accum.planning._result import Trial
from mtl_accum.planning._simplicity import simplicity
from mtl_accum.planning._timings import ran, timed

__all__ = ["run_off"]

_FIELD = 6  # schedules that are fastest by the formula
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 20  # fewer than five rounds cannot tell one schedule from another
_TOO_SLOW = 3.0  # times what another schedule's weighed step took, a step is given up
_LEAST_LIMIT = 4.0  # seconds that a weighed step may take in any case
_NOT_AGAIN = 2.0  # times the fastest's first step, a schedule is not timed again where rounds take long


def run_off(parts: Parts, options: Sequence[Candidate], budget: int, samples: int) -> list[Trial]:
    """Run the most promising schedules, a whole step of each under a meter, then time in turns those that fit.

    Among them are the fastest by the formula, `SummedLoss` and `Split` if they fit, and the simplest of each kind:
    where the formula's seconds are wrong, what is simple is there to be chosen.

    Args:
        parts: Trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        options: Schedules with their estimates, fastest first.
        budget: Bytes.
        samples: Number of samples of the batch.

    Returns:
        All that ran: the one to take, those as fast as one can tell, others that fit, fastest first; then the rest.
    """
    tasks = len(parts[1])
    trials = _weighed(parts, _entrants(options, samples, tasks), options, budget)
    fitting = [trial for trial in trials if trial.fits]
    fitting.sort(key=lambda trial: simplicity(trial.edition, samples, tasks, trial.peak_bytes or 0))
    if fitting:
        timed_to_the_end = _time(parts, fitting)
        choice, ties = fastest([trial.step_seconds for trial in timed_to_the_end])
        for index in ties:
            timed_to_the_end[index].tie = True
        first = timed_to_the_end[choice]
        fitting.sort(key=lambda trial: (trial is not first, not trial.tie, trial.seconds))
    return fitting + [trial for trial in trials if not trial.fits]


def _entrants(options: Sequence[Candidate], samples: int, tasks: int) -> list[Candidate]:
    """Choose schedules to run in any case: what is fastest by the formula, and what is simpler than that."""

    def order(option: Candidate) -> tuple[int, int, int]:
        return simplicity(option.edition, samples, tasks, option.estimate.peak_bytes)

    close = [o for o in options if o.estimate.seconds <= CLOSE * options[0].estimate.seconds][:_FIELD]
    simplest: dict[object, Candidate] = {}
    for option in sorted(options, key=order):
        edition = without_form(option.edition)
        simplest.setdefault(edition if _is_plain(option) else type(edition), option)
    most = max(map(order, close))
    simple = [o for o in simplest.values() if o not in close and (order(o) < most or _is_plain(o))]
    return [*simple, *close]


def _is_plain(option: Candidate) -> bool:
    return without_form(option.edition) in (SummedLoss(), Split())


def _weighed(parts: Parts, entrants: Sequence[Candidate], options: Sequence[Candidate], budget: int) -> list[Trial]:
    """Run a step of each entrant under a meter; where none fits, of the other schedules until one does."""
    trials: list[Trial] = []
    limit = math.inf
    for option in [*entrants, *(option for option in options if option not in entrants)]:
        if len(trials) >= len(entrants) and any(trial.fits for trial in trials):
            break
        began = time.perf_counter()
        peak, note = _weigh(TrainingStep(*parts, option.edition), limit)
        trials.append(Trial(option.edition, peak, fits=peak is not None and peak <= budget, note=note))
        if peak is not None:
            limit = min(limit, max(_LEAST_LIMIT, _TOO_SLOW * (time.perf_counter() - began)))
    return trials


def _time(parts: Parts, trials: Sequence[Trial]) -> list[Trial]:
    """Time a step of each, round by round; return those that ran to the end."""
    racing = list(trials)
    deadline = time.perf_counter() + _timings.PATIENCE
    for turn in range(_MOST_ROUNDS):
        for trial in racing:
            trial.step_seconds.append(timed(TrainingStep(*parts, trial.edition)))
        late = time.perf_counter() > deadline
        if late and turn == 0:
            least = min(trial.step_seconds[0] for trial in racing)
            racing = [trial for trial in racing if trial.step_seconds[0] <= _NOT_AGAIN * least]
        if late and turn + 1 >= _LEAST_ROUNDS:
            break
    return racing


class _TooSlowError(Exception):
    """A step takes longer than it may."""


class _Limit:
    """Ends a step at its next phase once its time is over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def begin(self, name: str, kind: Kind) -> None:
        if time.perf_counter() > self._end:
            raise _TooSlowError

    def end(self) -> None:
        """Nothing."""


def _weigh(step: TrainingStep, limit: float) -> tuple[int | None, str]:
    """Return the peak of a step that finds the optimizer's state there, or None and why there is none."""
    try:
        with listen(_Limit(limit)):
            if step.optimizer is not None and not step.optimizer.state and not ran(step):
                return None, ""
            meter: Meter = CudaMeter(step.device) if step.device.type == "cuda" else step.tensor_meter()
            with meter:
                did = ran(step)
    except _TooSlowError:
        step.zero_grad()
        return None, f"given up after {limit:.0f} s"
    return (meter.result().peak_bytes if did else None), ""
