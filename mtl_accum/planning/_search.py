"""The way from a network to the schedule that fits: probe, time, check, try, confirm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import torch

from mtl_accum.editions import Edition, Split, SummedLoss
from mtl_accum.memory import Build, Parts, PeakMemory, TrainingStep
from mtl_accum.planning._candidates import HEAD_CHUNKS, candidates, left_out
from mtl_accum.planning._choice import Candidate, pareto, promising, ranked
from mtl_accum.planning._clock import Clock
from mtl_accum.planning._direct import Direct, by_formula, peak_of
from mtl_accum.planning._exactness import Exactness, basic_kinds
from mtl_accum.planning._form import Form, in_form
from mtl_accum.planning._formula import Estimate, estimate
from mtl_accum.planning._notation import format_edition
from mtl_accum.planning._on_device import OnDevice
from mtl_accum.planning._result import Schedule, Trial
from mtl_accum.planning._run_off import run_off
from mtl_accum.planning._simplicity import in_small, kind
from mtl_accum.planning._survey import survey
from mtl_accum.planning._timings import piece_sizes, time_graph, time_pieces
from mtl_accum.prediction import DryRun, PredictionError, workspaces
from mtl_accum.verify import without_a_trace

__all__ = ["Search"]

# What is done with the trunk, and the candidates that it is there for.
_VARIANTS = {
    "": set(),
    "checkpointed": {"Checkpointed"},
    "offloaded": {"Offloaded"},
    "offloaded, checkpointed": {"Offloaded", "Checkpointed"},
}


class Search:
    """A network that has been probed, to be timed where it is on the device, and the schedules for it.

    Args:
        parts: trunk, tasks, batch and optimizer, or what builds them.
        device: to plan for.
        budget: in bytes.
        real: a step of the network, if it is on the device; else None.
        clock: counts the seconds.
        form: how the loop takes a schedule.
        also: Further candidates.

    Attributes:
        options: all candidates, fastest first.
        tables: the pieces.
        samples: of the batch.
        rests: what is there whatever the schedule.
        left_out: what is no candidate, and why.
        timed: whether the seconds are the device's.
        trials: what ran there.
        absent: tasks that have no target in the batch.
        exactness: what is known of the schedules by numbers; None where the network is not on the device.
        caveats: what the figures leave uncertain.
    """

    def __init__(
        self,
        parts: Parts | Build,
        device: torch.device,
        budget: int,
        real: TrainingStep | None,
        clock: Clock,
        *,
        form: Form = "forward_backward",
        also: Sequence[Edition] = (),
    ) -> None:
        self._form: Form = form
        self._also = also
        self._given, self._cuda, self._budget = parts, device.type == "cuda", budget
        self._real, self._clock = real, clock
        self.trials: list[Trial] = []
        self.exactness: Exactness | None = None
        self.timed = False
        self.caveats: tuple[str, ...] = ()
        self._wrong: set[str] = set()  # kinds of schedules that are not exact
        with clock("probing"):
            measured = None if self._probed_without_data() else real
            if measured is not None:
                with OnDevice(measured) as stage:
                    self._probe(stage, budget)
                self.caveats = ("shapes depend on values here: memory was measured on this batch, not predicted",)
        self._direct = Direct(parts, measured, cuda=self._cuda, seconds_per_phase=self._pace, clock=clock)

    def _probed_without_data(self) -> bool:
        """Probe on tensors without data; False where that fails or is a bound, and the device can be asked."""
        try:
            with DryRun(self._given, cuda=self._cuda) as stage:
                self._probe(stage, None)
                self.caveats = tuple(stage.bounds())
        except PredictionError:
            if self._real is None:
                raise
            self.caveats = ()
            return False
        return not self.caveats or self._real is None

    def _probe(self, stage: DryRun | OnDevice, room: int | None) -> None:
        trunk, tasks, batch, _ = stage.parts
        present = stage.present
        self.absent = tuple(name for name in tasks if name not in present)
        self.left_out = left_out(trunk, present, batch, on_gpu=self._cuda, form=self._form)
        variants = [name for name, needed in _VARIANTS.items() if not needed & self.left_out.keys()]
        network = survey(stage, variants, room)
        if network.uncuttable:
            self.left_out = dict.fromkeys(("Cached", HEAD_CHUNKS), network.uncuttable) | self.left_out
        kept = sum(event.size for event in workspaces(stage.seen)) if self._cuda else 0
        self.tables, self.samples = network.tables._replace(base=network.tables.base + kept), network.samples
        self.rests = dataclasses.replace(network.rests, workspaces=kept)
        self._pace = network.seconds_per_phase
        self._rank()

    def _rank(self) -> None:
        """List the candidates again, after one more is left out or the seconds are known better."""
        heads = len(self.tables.at(self.samples).heads)
        schedules = [*candidates(heads, self.samples, self.left_out), *self._also]
        editions = [in_form(edition, self._form) for edition in schedules]
        exact = [edition for edition in editions if kind(edition, self.samples) not in self._wrong]
        self.options = ranked(exact, self.tables, self.samples)

    @property
    def summed(self) -> Estimate:
        """What the summed loss needs."""
        return estimate(SummedLoss(), self.tables, self.samples)

    @property
    def smallest(self) -> Candidate:
        """The option that needs least memory."""
        return min(self.options, key=lambda option: option.estimate.peak_bytes)

    @property
    def anything_fits(self) -> bool:
        """Whether some option fits by the formula, or is over the budget by no more than the formula may be off."""
        return bool(promising(self.options, self._budget, lambda option: True))

    def check(self, room: int) -> None:
        """Hold every kind of schedule against `SummedLoss`, if the network is on the device; leave out what differs.

        Args:
            room: bytes that a check may take.
        """
        if self._real is None or not self.anything_fits:
            return
        needs = {size: estimate(SummedLoss(), self.tables, size).peak_bytes for size in Exactness.sizes(self.samples)}
        self.exactness = Exactness(self._real, self.samples, room, needs)
        basic = basic_kinds(self.samples) | ({"Split": Split()} if self._form == "loss" else {})
        basic |= {format_edition(edition): edition for edition in self._also}
        kinds = {name: in_form(edition, self._form) for name, edition in basic.items() if name not in self.left_out}
        wrong = self._why_not(kinds.values(), hurry=True)
        self.left_out |= {name: wrong[edition] for name, edition in kinds.items() if edition in wrong}
        self._wrong |= {kind(edition, self.samples) for edition in wrong}
        self._rank()

    def time(self) -> None:
        """Take the seconds from short runs of the pieces, if the network is on the device and anything fits."""
        if self._real is None or not self.anything_fits:
            return
        sizes = piece_sizes(self.tables, self.samples, self._budget)
        sizes = {variant: some for variant, some in sizes.items() if not _VARIANTS[variant] & self.left_out.keys()}
        with self._clock("timing the pieces"), without_a_trace(self._real):
            times = time_pieces(self._real.parts, sizes)
            per_graph = time_graph(self._real.parts, sizes[""][0]) if sizes[""] else 0.0
        if times:
            self.timed = True
            self.tables = self.tables.timed_by(times, per_graph)
            self._rank()

    def choose(self) -> tuple[Candidate, PeakMemory] | None:
        """The fastest option that fits and is exact, with its direct prediction; None if there is none."""
        rest = self._promising()
        too_low = 1.0
        while rest:
            order, rest = self._try(rest)
            for option in order:
                formula = option.estimate.peak_bytes
                if too_low > 1.0 and too_low * formula > self._budget:
                    continue  # the formula was too low for another one by as much
                if self._leave_out(self._why_not([option.edition])):
                    continue
                with self._direct() as direct:
                    record = direct(option)
                if peak_of(record) <= self._budget:
                    return option, record
                too_low = max(too_low, peak_of(record) / formula)
            rest = [option for option in rest if kind(option.edition, self.samples) not in self._wrong]
        return None

    def front(self) -> tuple[Schedule, ...]:
        """Schedules than which none is both smaller and faster; without those that there was no time to check."""
        pending: set[str] = set()
        while True:
            options = [option for option in self.options if kind(option.edition, self.samples) not in pending]
            front = pareto(options, self.summed)
            editions = [schedule.edition for schedule in front]
            if self._leave_out(self._why_not(editions, hurry=True)):
                continue
            late = self.exactness.pending(editions) if self.exactness else set()
            if not late:
                return front
            pending |= {kind(edition, self.samples) for edition in late}

    def ratio(self, edition: Edition) -> float | None:
        """The measured time of a schedule relative to `SummedLoss`; None if the two did not run side by side."""
        seconds = {trial.edition: trial.step_seconds for trial in self.trials}
        pairs = zip(seconds.get(edition, []), seconds.get(in_form(SummedLoss(), self._form), []), strict=False)
        return median(ratios) if (ratios := [one / summed for one, summed in pairs]) else None

    def formula(self, option: Candidate) -> PeakMemory:
        """What the formula says of an option's memory."""
        return by_formula(option, "by the formula of the pieces: nothing fits, so nothing ran", cuda=self._cuda)

    def _promising(self) -> list[Candidate]:
        """Options that fit: by the formula, or by a direct prediction where the formula is just above the budget."""
        ratios: list[float] = []  # of direct predictions to the formula

        def fits(option: Candidate) -> bool:
            formula = option.estimate.peak_bytes
            if ratios and min(ratios) * formula > self._budget:
                return False  # the formula is not as much too high as that would take
            if self._direct.tired:
                return False
            peak = peak_of(direct(option))
            ratios.append(peak / formula)
            return peak <= self._budget

        with self._direct() as direct:
            return promising(self.options, self._budget, fits)

    def _why_not(self, editions: Iterable[Edition], *, hurry: bool = False) -> dict[Edition, str]:
        """Why schedules are not exact; those in a hurry are checked only as long as it takes seconds."""
        if self.exactness is None:
            return {}
        with self._clock("checking exactness"):
            return self.exactness.why_not(editions, hurry=hurry)

    def _leave_out(self, wrong: Mapping[Edition, str]) -> bool:
        """Leave kinds of schedules out, and say whether there were any."""
        for edition, reason in wrong.items():
            small = in_small(edition, self.samples, Exactness.few(edition, self.samples))
            self.left_out[format_edition(small)] = reason
            self._wrong.add(kind(edition, self.samples))
        if wrong:
            self._rank()
        return bool(wrong)

    def _try(self, options: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """Options in the order in which to believe in them, and those that are left for later."""
        if self._real is None:
            return options, []
        with self._clock("trying the best"), without_a_trace(self._real):
            tried = run_off(self._real.parts, options, self._budget, self.samples)
        self.trials += tried
        rest = {option.edition: option for option in options}
        done = [(trial.fits, rest.pop(trial.edition)) for trial in tried]
        return [option for fits, option in done if fits], list(rest.values())
