"""The way from a network to the schedule that fits: probe, time, try, confirm."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from mtl_accum._restore import without_a_trace
from mtl_accum.editions import Edition, SummedLoss
from mtl_accum.memory import PeakMemory
from mtl_accum.memory._predict import predicted, workspaces
from mtl_accum.memory._rehearsal import Rehearsal
from mtl_accum.memory._training_step import Build, Parts, TrainingStep
from mtl_accum.planning._candidates import HEAD_CHUNKS, candidates, left_out
from mtl_accum.planning._choice import Option, promising, ranked
from mtl_accum.planning._formula import Estimate, estimate
from mtl_accum.planning._record import Trial
from mtl_accum.planning._survey import survey
from mtl_accum.planning._timings import piece_sizes, run_off, time_graph, time_pieces

__all__ = ["Clock", "Search"]

# What is done with the trunk, and the candidates that it is there for.
_VARIANTS = {
    "": set(),
    "checkpointed": {"Checkpointed"},
    "offloaded": {"Offloaded"},
    "offloaded, checkpointed": {"Offloaded", "Checkpointed"},
}
_PATIENCE = 30.0  # seconds for a direct prediction; where it would take longer, the formula is believed


class Clock:
    """Seconds by what was done meanwhile.

    Args:
        tell: told what begins.

    Attributes:
        spent: the seconds.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count what the block takes."""
        self._tell(what)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - start


class Search:
    """A network that has been probed, to be timed where it is on the device, and the schedules for it.

    Args:
        parts: trunk, tasks, batch and optimizer, or what builds them.
        device: to plan for.
        budget: in bytes.
        real: a step of the network, if it is on the device; else None.
        clock: counts the seconds.

    Attributes:
        options: all candidates, fastest first.
        tables: the pieces.
        samples: of the batch.
        rests: what is there whatever the schedule.
        left_out: what is no candidate, and why.
        timed: whether the seconds are the device's.
        trials: what ran there.
    """

    def __init__(
        self, parts: Parts | Build, device: torch.device, budget: int, real: TrainingStep | None, clock: Clock
    ) -> None:
        self._given, self._cuda, self._budget = parts, device.type == "cuda", budget
        self._real, self._clock = real, clock
        with clock("probing"), Rehearsal(parts, cuda=self._cuda) as rehearsal:
            trunk, _, batch, _ = rehearsal.parts
            self.left_out = left_out(trunk, rehearsal.present, batch, on_gpu=self._cuda)
            variants = [name for name, needed in _VARIANTS.items() if not needed & self.left_out.keys()]
            found = survey(rehearsal, variants)
        if found.uncuttable:
            self.left_out = dict.fromkeys(("Cached", HEAD_CHUNKS), found.uncuttable) | self.left_out
        kept = sum(event.size for event in workspaces(rehearsal.seen)) if self._cuda else 0
        self.tables, self.samples = found.tables._replace(base=found.tables.base + kept), found.samples
        self.rests = dataclasses.replace(found.rests, workspaces=kept)
        self._seconds_per_phase = found.seconds_per_phase
        heads = len(self.tables.at(self.samples).heads)
        self._editions = candidates(heads, self.samples, self.left_out)
        self.options = ranked(self._editions, self.tables, self.samples)
        self.trials: list[Trial] = []
        self._peaks: dict[Edition, PeakMemory] = {}
        self.timed = False

    @property
    def summed(self) -> Estimate:
        """What the summed loss needs."""
        return estimate(SummedLoss(), self.tables, self.samples)

    def time(self) -> None:
        """Take the seconds from short runs of the pieces, if the network is on the device and anything fits."""
        if self._real is None or self.smallest.estimate.peak_bytes > self._budget:
            return
        sizes = piece_sizes(self.tables, self.samples, self._budget)
        with self._clock("timing the pieces"), without_a_trace(self._real):
            times = time_pieces(self._real.parts, sizes)
            per_graph = time_graph(self._real.parts, sizes[""][0]) if sizes[""] else 0.0
        if times:
            self.timed = True
            self.tables = self.tables.timed_by(times, per_graph)
            self.options = ranked(self._editions, self.tables, self.samples)

    def choose(self) -> tuple[Option, PeakMemory] | None:
        """The fastest option that fits, with its direct prediction; None if none does."""
        with self._predicting() as direct:
            ratios: list[float] = []  # of direct predictions to the formula

            def fits(option: Option) -> bool:
                formula = option.estimate.peak_bytes
                if ratios and min(ratios) * formula > self._budget:
                    return False  # the formula is not as much too high as that would take
                ratios.append(_peak(direct(option)) / formula)
                return _peak(direct(option)) <= self._budget

            rest = promising(self.options, self._budget, fits)
        too_low = 1.0
        while rest:
            order, rest = self._try(rest)
            with self._predicting() as direct:
                for option in order:
                    formula = option.estimate.peak_bytes
                    if too_low > 1.0 and too_low * formula > self._budget:
                        continue  # the formula was too low for another one by as much
                    if _peak(direct(option)) <= self._budget:
                        return option, direct(option)
                    too_low = max(too_low, _peak(direct(option)) / formula)
        return None

    @property
    def smallest(self) -> Option:
        """The option that needs least memory."""
        return min(self.options, key=lambda option: option.estimate.peak_bytes)

    def predict(self, option: Option) -> PeakMemory:
        """The direct prediction of an option."""
        with self._predicting() as direct:
            return direct(option)

    def _try(self, options: list[Option]) -> tuple[list[Option], list[Option]]:
        """Options in the order in which to believe in them, and those that are left for later."""
        if self._real is None:
            return options, []
        with self._clock("trying the best"), without_a_trace(self._real):
            tried = run_off(self._real.parts, options, self._budget)
        self.trials += tried
        rest = {option.edition: option for option in options}
        done = [(trial.fits, rest.pop(trial.edition)) for trial in tried]
        return [option for fits, option in done if fits], list(rest.values())

    @contextmanager
    def _predicting(self) -> Iterator[Callable[[Option], PeakMemory]]:
        """A function that predicts options directly, each once."""
        with ExitStack() as stack:
            opened: list[Rehearsal] = []

            def direct(option: Option) -> PeakMemory:
                if option.edition not in self._peaks:
                    if not opened:
                        stack.enter_context(self._clock("predicting"))
                        opened.append(stack.enter_context(Rehearsal(self._given, cuda=self._cuda)))
                    self._peaks[option.edition] = self._direct(opened[0], option)
                return self._peaks[option.edition]

            yield direct

    def _direct(self, rehearsal: Rehearsal, option: Option) -> PeakMemory:
        """The direct prediction of an option; what the formula says where that would take too long."""
        seconds = option.estimate.phases * self._seconds_per_phase
        if seconds <= _PATIENCE:
            return predicted(rehearsal, option.edition, cuda=self._cuda)[0]
        caveat = f"by the formula of the pieces: a direct prediction, by category, would take {seconds:.0f} s"
        return PeakMemory(
            *("predicted", "cuda" if self._cuda else "cpu"),
            peak_bytes=option.estimate.peak_bytes,
            base_bytes=None,
            end_bytes=None,
            edition=repr(option.edition),
            peak_phase=option.estimate.peak_phase,
            caveats=(caveat,),
        )


def _peak(found: PeakMemory) -> int:
    assert found.peak_bytes is not None  # a prediction always has one
    return found.peak_bytes
