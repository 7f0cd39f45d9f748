"""Short real runs: of the pieces, to time every schedule by its formula, and of the best schedules themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.utils._pytree import tree_map

from mtl_accum._bench import wall_clock
from mtl_accum.editions import Edition, Split, SummedLoss
from mtl_accum.editions._phase import listening
from mtl_accum.editions._pieces import take
from mtl_accum.memory import CudaMeter, Meter
from mtl_accum.memory._out_of_memory import is_out_of_memory
from mtl_accum.memory._training_step import Parts, TrainingStep
from mtl_accum.planning._choice import CLOSE, Option
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._pieces import Pieces, Table
from mtl_accum.planning._probe import Probe, Stopwatch, as_pieces, wrapped
from mtl_accum.planning._record import Trial

__all__ = ["piece_sizes", "run_off", "time_graph", "time_pieces"]

_HALVINGS = 7  # the smallest piece is a 64th of the batch, and two samples: batch normalisation refuses one
_ROUNDS = 3  # of the pieces; the fastest of each counts
_PATIENCE = 4.0  # seconds, for the pieces and for the run-off each; one round is always finished
_FIELD = 6  # schedules in the run-off
_ALIKE = 1.02  # as fast, as far as one can tell
_LEAST_STEPS, _MOST_STEPS = 3, 20  # of each schedule in the run-off


def piece_sizes(tables: Tables, samples: int, budget: int) -> dict[str, list[int | None]]:
    """By the trunk's variant, the whole batch, halves of it and so on, as far as that fits."""
    counts = {samples, *(samples >> power for power in range(_HALVINGS)), 2}
    sizes: list[int] = sorted(count for count in counts if min(2, samples) <= count <= samples)
    if samples == 1:
        return {variant: [None] for variant in tables.trunk}
    return {
        variant: [n for n in sizes if estimate(wrapped(Split(), variant), tables, n).peak_bytes <= budget]
        for variant in tables.trunk
    }


def time_pieces(parts: Parts, sizes: Mapping[str, Sequence[int | None]]) -> dict[str, Table]:
    """Seconds of the pieces at some numbers of samples, by running them in turns.

    Args:
        parts: trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        sizes: by the trunk's variant, numbers of samples; None is the batch as it is.

    Returns:
        A table without bytes for each variant; none for one of which nothing ran.
    """
    trunk, tasks, batch, optimizer = parts
    seen: dict[str, dict[int, list[Pieces]]] = {variant: {} for variant in sizes}
    turns = [(variant, size) for variant, chosen in sizes.items() for size in chosen]
    deadline = time.perf_counter() + _PATIENCE
    for _ in range(_ROUNDS):
        for variant, size in list(turns):
            part = batch if size is None else take(batch, (0, size))
            step = TrainingStep(trunk, tasks, part, optimizer, wrapped(Probe(weigh=False), variant))
            watch = Stopwatch(wall_clock(step.device))
            with listening(watch):
                ran = _ran(step)
            if ran:
                seen[variant].setdefault(size or 1, []).append(as_pieces((), watch.phases, list(tasks), 0))
            else:
                turns.remove((variant, size))
        if time.perf_counter() > deadline:
            break
    return {variant: _table(runs) for variant, runs in seen.items() if runs}


def time_graph(parts: Parts, size: int | None) -> float:
    """Seconds that a backward of its own costs a head: what `Split` takes longer than the summed loss."""
    trunk, tasks, batch, _ = parts
    part = batch if size is None else take(batch, (0, size))
    fastest: dict[Edition, float] = {Split(): math.inf, SummedLoss(): math.inf}
    for _ in range(_ROUNDS + 1):
        for edition in list(fastest):
            fastest[edition] = min(fastest[edition], _timed(TrainingStep(trunk, tasks, part, None, edition)))
    return max(0.0, fastest[Split()] - fastest[SummedLoss()]) / max(1, len(tasks) - 1)


def run_off(parts: Parts, options: Iterable[Option], budget: int) -> list[Trial]:
    """Run the best schedules, a whole step of each under a meter, then time in turns those that fit.

    Args:
        parts: trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        options: schedules with their estimates, fastest first.
        budget: in bytes.

    Returns:
        All that ran: those that fit, fastest first, of equally fast ones the smallest; then the others.
    """
    tried: list[Trial] = []
    fitting: list[Trial] = []
    spent = best = 0.0
    for edition, (_, _, seconds, _) in options:
        spent += seconds * _LEAST_STEPS
        if fitting and (len(fitting) == _FIELD or seconds > CLOSE * best or spent > _PATIENCE):
            break
        peak = _weigh(TrainingStep(*parts, edition))
        tried.append(Trial(edition, peak, fits=peak is not None and peak <= budget))
        if tried[-1].fits:
            fitting.append(tried[-1])
            best = best or seconds
    deadline = time.perf_counter() + _PATIENCE
    for turn in range(_MOST_STEPS):
        for trial in fitting:
            trial.step_seconds.append(_timed(TrainingStep(*parts, trial.edition)))
        if turn + 1 >= _LEAST_STEPS and time.perf_counter() > deadline:
            break
    fitting.sort(key=lambda trial: trial.seconds)
    alike = [trial for trial in fitting if trial.seconds <= _ALIKE * fitting[0].seconds]
    alike.sort(key=lambda trial: trial.peak_bytes or 0)
    return alike + fitting[len(alike) :] + [trial for trial in tried if not trial.fits]


def _table(runs: Mapping[int, Sequence[Pieces]]) -> Table:
    """The fastest of the runs of each size; a head that found no target in so few samples is that of more samples."""
    known: list[tuple[int, Pieces]] = []
    for size in sorted(runs, reverse=True):
        pieces = tree_map(lambda *seconds: min(seconds), *runs[size])
        heads = known[-1][1].heads | pieces.heads if known else pieces.heads
        known.append((size, pieces._replace(heads=heads)))
    return Table(known)


def _weigh(step: TrainingStep) -> int | None:
    """The peak of a step that finds the optimizer's state there; None where memory ran out."""
    if step.optimizer is not None and not step.optimizer.state and not _ran(step):
        return None
    meter: Meter = CudaMeter(step.device) if step.device.type == "cuda" else step.tensor_meter()
    with meter:
        ran = _ran(step)
    return meter.result().peak_bytes if ran else None


def _timed(step: TrainingStep) -> float:
    now = wall_clock(step.device)
    start = now()
    step()
    return now() - start


def _ran(step: TrainingStep) -> bool:
    """Run a step; False where memory ran out."""
    try:
        step()
        return True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    step.zero_grad()  # here the error has let go of the step's tensors
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return False
