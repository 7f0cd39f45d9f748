"""Search for the fastest exact schedule in a budget: measure costs, rank, check, run trials, confirm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import torch

from mtl_accum.editions import Edition, Split, SummedLoss
from mtl_accum.memory import Build, Parts, PeakMemory, TrainingStep
from mtl_accum.planning._device_run import DeviceRun
from mtl_accum.planning._direct_prediction import DirectPredictions, by_formula, peak_of
from mtl_accum.planning._exactness import ExactnessChecks, basic_kinds
from mtl_accum.planning._form import Form, in_form
from mtl_accum.planning._formula import Estimate, estimate
from mtl_accum.planning._measure_costs import measure_costs
from mtl_accum.planning._notation import format_edition
from mtl_accum.planning._progress import Progress
from mtl_accum.planning._ranking import Candidate, pareto_front, rank, shortlist
from mtl_accum.planning._result import Schedule, Trial
from mtl_accum.planning._schedule_space import HEAD_CHUNKS, candidates, left_out
from mtl_accum.planning._simplicity import in_small, kind
from mtl_accum.planning._timings import sizes_to_time, time_graph, time_parts
from mtl_accum.planning._trials import run_trials
from mtl_accum.prediction import DryRun, PredictionError, workspaces
from mtl_accum.verify import without_a_trace

__all__ = ["Search"]

# Variants of the trunk, and the kinds of candidates that need them.
_VARIANTS = {
    "": set(),
    "checkpointed": {"Checkpointed"},
    "offloaded": {"Offloaded"},
    "offloaded, checkpointed": {"Offloaded", "Checkpointed"},
}


class Search:
    """Candidate schedules of a network, ranked by its costs, and the choice among them.

    The costs are measured when the search is made. `check`, `time` and `choose` then follow in that order; the first
    two do nothing unless the network is on the device.

    Args:
        parts: Trunk, tasks, batch and optimizer, or a function that builds them.
        device: Device to plan for.
        budget: Budget in bytes.
        real: Step of the network if it is on the device, else None.
        progress: Progress of the plan.
        form: How the training loop calls a schedule.
        also: Further candidates.

    Attributes:
        candidates: All candidates, fastest first.
        tables: Costs of the network.
        samples: Number of samples of the batch.
        resident: Bytes that are live whatever the schedule.
        left_out: Reasons by kind of schedule that is no candidate.
        timed: Whether the seconds were measured on the device.
        trials: Trials on the device.
        absent: Names of the tasks without a target in the batch.
        checks: Exactness checks; None if the network is not on the device.
        caveats: Uncertainties of the figures.
    """

    def __init__(
        self,
        parts: Parts | Build,
        device: torch.device,
        budget: int,
        real: TrainingStep | None,
        progress: Progress,
        *,
        form: Form = "forward_backward",
        also: Sequence[Edition] = (),
    ) -> None:
        self._form: Form = form
        self._also = also
        self._parts, self._cuda, self._budget = parts, device.type == "cuda", budget
        self._real, self._progress = real, progress
        self.trials: list[Trial] = []
        self.checks: ExactnessChecks | None = None
        self.timed = False
        self.caveats: tuple[str, ...] = ()
        self._inexact: set[str] = set()  # kinds of schedules
        with progress.stage("measuring costs"):
            measured = None if self._measured_without_data() else real
            if measured is not None:
                with DeviceRun(measured) as run:
                    self._measure(run, budget)
                self.caveats = ("shapes depend on values here: memory was measured on this batch, not predicted",)
        self._direct = DirectPredictions(
            parts, measured, cuda=self._cuda, seconds_per_phase=self._seconds_per_phase, progress=progress
        )

    def _measured_without_data(self) -> bool:
        """Measure costs on tensors without data; False where that fails or gives a bound, and the device can do it."""
        try:
            with DryRun(self._parts, cuda=self._cuda) as run:
                self._measure(run, None)
                self.caveats = tuple(run.bounds())
        except PredictionError:
            if self._real is None:
                raise
            self.caveats = ()
            return False
        return not self.caveats or self._real is None

    def _measure(self, run: DryRun | DeviceRun, room: int | None) -> None:
        """Measure the costs of the network, and rank the candidates by them.

        Args:
            run: Runner of steps, inside its block.
            room: Bytes that a step on the device may take; None for steps without data.
        """
        trunk, tasks, batch, _ = run.parts
        present = run.present
        self.absent = tuple(name for name in tasks if name not in present)
        self.left_out = left_out(trunk, present, batch, on_gpu=self._cuda, form=self._form)
        variants = [name for name, needed in _VARIANTS.items() if not needed & self.left_out.keys()]
        network = measure_costs(run, variants, room)
        if network.uncuttable:
            self.left_out = dict.fromkeys(("Cached", HEAD_CHUNKS), network.uncuttable) | self.left_out
        workspace = sum(event.size for event in workspaces(run.operators)) if self._cuda else 0
        self.tables, self.samples = network.tables._replace(base=network.tables.base + workspace), network.samples
        self.resident = dataclasses.replace(network.resident, workspaces=workspace)
        self._seconds_per_phase = network.seconds_per_phase
        self._rank()

    def _rank(self) -> None:
        """List and rank the candidates, by the latest costs and without the kinds that are left out."""
        heads = len(self.tables.at(self.samples).heads)
        schedules = [*candidates(heads, self.samples, self.left_out), *self._also]
        editions = [in_form(edition, self._form) for edition in schedules]
        exact = [edition for edition in editions if kind(edition, self.samples) not in self._inexact]
        self.candidates = rank(exact, self.tables, self.samples)

    @property
    def summed(self) -> Estimate:
        """Estimate of `SummedLoss`."""
        return estimate(SummedLoss(), self.tables, self.samples)

    @property
    def smallest(self) -> Candidate:
        """Candidate with the smallest peak by the formula."""
        return min(self.candidates, key=lambda candidate: candidate.estimate.peak_bytes)

    @property
    def anything_fits(self) -> bool:
        """Whether some candidate's estimate is within the budget, or above it by no more than the formula's error."""
        return bool(shortlist(self.candidates, self._budget, lambda candidate: True))

    def check(self, room: int) -> None:
        """Compare every kind of schedule with `SummedLoss` on the device, and leave out those that differ.

        Args:
            room: Bytes that a check may take.
        """
        if self._real is None or not self.anything_fits:
            return
        sizes = ExactnessChecks.sizes(self.samples)
        needs = {size: estimate(SummedLoss(), self.tables, size).peak_bytes for size in sizes}
        self.checks = ExactnessChecks(self._real, self.samples, room, needs)
        basic = basic_kinds(self.samples) | ({"Split": Split()} if self._form == "loss" else {})
        basic |= {format_edition(edition): edition for edition in self._also}
        kinds = {name: in_form(edition, self._form) for name, edition in basic.items() if name not in self.left_out}
        reasons = self._check(kinds.values(), hurry=True)
        self.left_out |= {name: reasons[edition] for name, edition in kinds.items() if edition in reasons}
        self._inexact |= {kind(edition, self.samples) for edition in reasons}
        self._rank()

    def time(self) -> None:
        """Time trunk and heads on the device, and rank the candidates by these seconds, if anything fits."""
        if self._real is None or not self.anything_fits:
            return
        sizes = sizes_to_time(self.tables, self.samples, self._budget)
        sizes = {variant: some for variant, some in sizes.items() if not _VARIANTS[variant] & self.left_out.keys()}
        with self._progress.stage("timing the parts"), without_a_trace(self._real):
            timings = time_parts(self._real.parts, sizes)
            per_graph = time_graph(self._real.parts, sizes[""][0]) if sizes[""] else 0.0
        if timings:
            self.timed = True
            self.tables = self.tables.with_timings(timings, per_graph)
            self._rank()

    def choose(self) -> tuple[Candidate, PeakMemory] | None:
        """Choose a schedule, and predict its peak.

        The chosen schedule's direct prediction is within the budget. On the device the schedule also ran within the
        budget, its kind is not known to be inexact, and among those that ran none was surely faster than it. Elsewhere
        it is the fastest by the formula of those that fit.

        Returns:
            The candidate and its prediction; None if no candidate fits and is exact.
        """
        waiting = self._shortlist()
        formula_too_low = 1.0  # factor by which the formula was too low for the worst candidate so far
        while waiting:
            ordered, waiting = self._run_trials(waiting)
            for candidate in ordered:
                estimated = candidate.estimate.peak_bytes
                if formula_too_low > 1.0 and formula_too_low * estimated > self._budget:
                    continue  # it would not fit if the formula were too low by the same factor
                if self._leave_out(self._check([candidate.edition])):
                    continue
                with self._direct as direct:
                    record = direct.predict(candidate)
                if peak_of(record) <= self._budget:
                    return candidate, record
                formula_too_low = max(formula_too_low, peak_of(record) / estimated)
            waiting = [c for c in waiting if kind(c.edition, self.samples) not in self._inexact]
        return None

    def pareto_front(self) -> tuple[Schedule, ...]:
        """Return the Pareto front of the candidates, without those whose check was postponed for lack of time."""
        pending: set[str] = set()
        while True:
            checked = [c for c in self.candidates if kind(c.edition, self.samples) not in pending]
            front = pareto_front(checked, self.summed)
            editions = [schedule.edition for schedule in front]
            if self._leave_out(self._check(editions, hurry=True)):
                continue
            postponed = self.checks.pending(editions) if self.checks else set()
            if not postponed:
                return front
            pending |= {kind(edition, self.samples) for edition in postponed}

    def measured_ratio(self, edition: Edition) -> float | None:
        """Return a schedule's measured time relative to `SummedLoss`; None unless both ran in the same rounds."""
        seconds = {trial.edition: trial.step_seconds for trial in self.trials}
        pairs = zip(seconds.get(edition, []), seconds.get(in_form(SummedLoss(), self._form), []), strict=False)
        ratios = [own / summed for own, summed in pairs]
        return median(ratios) if ratios else None

    def estimated(self, candidate: Candidate) -> PeakMemory:
        """Return the estimate of a candidate that does not fit as a record."""
        return by_formula(candidate, "by the formula: nothing fits, so nothing ran", cuda=self._cuda)

    def _shortlist(self) -> list[Candidate]:
        """Return the candidates that fit, by the formula or, slightly above the budget, by a direct prediction."""
        ratios: list[float] = []  # of direct predictions to estimates

        def fits(candidate: Candidate) -> bool:
            estimated = candidate.estimate.peak_bytes
            if ratios and min(ratios) * estimated > self._budget:
                return False  # the formula was never too high by as much as that would take
            if self._direct.out_of_patience:
                return False
            peak = peak_of(direct.predict(candidate))
            ratios.append(peak / estimated)
            return peak <= self._budget

        with self._direct as direct:
            return shortlist(self.candidates, self._budget, fits)

    def _check(self, editions: Iterable[Edition], *, hurry: bool = False) -> dict[Edition, str]:
        """Return the reasons of schedules that are not exact; empty where the network is not on the device.

        Args:
            editions: Schedules to check.
            hurry: Whether to postpone checks once they have taken some seconds.
        """
        if self.checks is None:
            return {}
        with self._progress.stage("checking exactness"):
            return self.checks.inexact(editions, hurry=hurry)

    def _leave_out(self, reasons: Mapping[Edition, str]) -> bool:
        """Leave out the kinds of the given schedules, and return whether there were any."""
        for edition, reason in reasons.items():
            small = in_small(edition, self.samples, ExactnessChecks.few(edition, self.samples))
            self.left_out[format_edition(small)] = reason
            self._inexact.add(kind(edition, self.samples))
        if reasons:
            self._rank()
        return bool(reasons)

    def _run_trials(self, waiting: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """Run trials on the device.

        Returns:
            The candidates to choose from, best first, and those that have not run. Without the device these are all
            of them in their order, and none.
        """
        if self._real is None:
            return waiting, []
        with self._progress.stage("running trials"), without_a_trace(self._real):
            trials = run_trials(self._real.parts, waiting, self._budget, self.samples)
        self.trials += trials
        not_run = {candidate.edition: candidate for candidate in waiting}
        ran = [(trial.fits, not_run.pop(trial.edition)) for trial in trials]
        return [candidate for fits, candidate in ran if fits], list(not_run.values())
