"""Measurement of a network's costs: a few profiled steps at several numbers of samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from mtl_accum.editions import Edition, Split, modules_of, samples_of
from mtl_accum.editions._engine import listen
from mtl_accum.memory import Breakdown, Parts, TensorMeter
from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost, with_all_heads
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._operations import OperationCounter
from mtl_accum.planning._profile import Profile, bytes_of, with_variant

__all__ = ["MeasuredNetwork", "StepRunner", "measure_costs"]

_FRACTION = 12  # the smaller size is that fraction of the batch: small pieces matter, and one sample is a special case
_FEWEST = 2  # samples: batch normalisation refuses one


class MeasuredNetwork(NamedTuple):
    """Costs of a network.

    Attributes:
        tables: Costs at any number of samples, with seconds by operation counts.
        samples: Number of samples of the batch; 1 if it cannot be cut.
        resident: Bytes that are live whatever the schedule: parameters, buffers, optimizer state, the batch.
        uncuttable: Reason why batch or representation cannot be cut; empty if they can.
        seconds_per_phase: Seconds that a phase of a profiled step takes.
    """

    tables: Tables
    samples: int
    resident: Breakdown
    uncuttable: str
    seconds_per_phase: float


class StepRunner(Protocol):
    """Runs steps of a network under a meter: a `DryRun` without data, or a `DeviceRun` on the device."""

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer."""
        ...

    def step(self, edition: Edition, *, samples: int | None = None) -> TensorMeter | None:
        """Run one step, on some samples or on all; None if memory ran out."""
        ...


def measure_costs(runner: StepRunner, variants: Sequence[str], room: int | None = None) -> MeasuredNetwork:
    """Measure the costs of a network at the size of the batch and at smaller ones.

    Args:
        runner: Runner of steps, inside its block.
        variants: Variants of the trunk: "", "checkpointed", "offloaded", "offloaded, checkpointed".
        room: Bytes that a step on the device may take. It runs at two more sizes there, smallest first, as far as they
            fit. None for steps without data.

    Raises:
        PredictionError: The step does not run on tensors without data.
        MemoryError: Not even a few samples fit, or none has a target.
    """
    batch = runner.parts[2]
    uncuttable = ""
    try:
        samples = samples_of(batch, "batch")
        sizes = _sizes(samples, number=2 if room is None else 4)
    except (TypeError, ValueError) as error:
        samples, sizes, uncuttable = 1, [None], str(error)
    per_sample = bytes_of(batch) / samples if sizes != [None] else 0.0
    tables: dict[str, CostTable] = {}
    latest: _ProfiledStep | None = None
    for variant in variants:
        costs: dict[int, NetworkCosts] = {}
        for size in sizes:
            if room is not None and latest is not None and len(costs) > 1:
                so_far = Tables(latest.base - per_sample * samples, per_sample, {"": CostTable(with_all_heads(costs))})
                if estimate(Split(), so_far, size or samples).peak_bytes > room:
                    break
            try:
                profiled = _profile_step(runner, variant, size)
            except _NoTargetError:
                continue
            if profiled is None:
                break
            latest, costs[size or samples] = profiled, profiled.costs
        if not costs:
            raise MemoryError("found no piece of the batch that fits into memory and has a target")
        tables[variant] = CostTable(with_all_heads(costs))
    assert latest is not None
    return MeasuredNetwork(
        tables=Tables(latest.base - per_sample * samples, per_sample, tables),
        samples=samples,
        resident=latest.resident,
        uncuttable=uncuttable or latest.uncuttable,
        seconds_per_phase=latest.seconds_per_phase,
    )


def _sizes(samples: int, number: int) -> list[int | None]:
    """Choose up to so many numbers of samples: a small one, the whole batch, and doublings of the small one."""
    small = min(max(_FEWEST, samples // _FRACTION), samples)
    between = [small * 2**power for power in range(1, number)][: number - 2]
    return sorted({small, *(size for size in between if size < samples), samples})


class _NoTargetError(Exception):
    """No task has a target in the samples of a step."""


class _ProfiledStep(NamedTuple):
    """Results of one profiled step; `base` is in bytes."""

    costs: NetworkCosts
    base: int
    resident: Breakdown
    uncuttable: str
    seconds_per_phase: float


def _profile_step(runner: StepRunner, variant: str, size: int | None) -> _ProfiledStep | None:
    """Run a profiled step; None if memory ran out.

    Raises:
        _NoTargetError: No task has a target in so few samples.
    """
    counter = OperationCounter()
    profile = Profile(counter.now)
    started = time.perf_counter()
    with listen(profile), counter:
        meter = runner.step(with_variant(profile, variant), samples=size)
    if meter is None:
        return None
    if not profile.ran_a_task:
        raise _NoTargetError
    seconds = time.perf_counter() - started
    tasks = runner.parts[1]
    record = meter.result()
    costs = profile.costs(list(tasks), record.timeline)
    costs = costs._replace(heads={name: _with_largest(part, tasks[name]) for name, part in costs.heads.items()})
    peak = record.categories or Breakdown()
    resident = Breakdown(peak.parameters, peak.buffers, 0, peak.optimizer_state, peak.inputs)
    per_phase = seconds / profile.number_of_phases
    return _ProfiledStep(costs, record.base_bytes or 0, resident, profile.uncuttable, per_phase)


def _with_largest(part: PartCost, task: Any) -> PartCost:
    """Add the size of the largest gradient among those of a head's parameters."""
    trained = (p for module in modules_of(task) for p in module.parameters(recurse=False) if p.requires_grad)
    return part._replace(largest=float(max((bytes_of(parameter) for parameter in trained), default=0)))
