"""Planner: the fastest exact schedule whose peak fits into a memory budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk, require_edition, require_parts
from mtl_accum.memory import Build, Parts, TrainingStep
from mtl_accum.planning._advice import advice, fixed_memory, largest_batches
from mtl_accum.planning._budget import in_bytes
from mtl_accum.planning._form import Form, in_form, require_form
from mtl_accum.planning._profile import bytes_of
from mtl_accum.planning._progress import Progress
from mtl_accum.planning._ranking import Candidate, relative_to
from mtl_accum.planning._result import Plan
from mtl_accum.planning._search_in_budget import Search
from mtl_accum.prediction import cpu_or_cuda

__all__ = ["plan"]


def plan(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: Optimizers = None,
    budget: int | str = "auto",
    device: str | torch.device | None = None,
    form: Form = "forward_backward",
    also: Sequence[Edition] = (),
    build: Build | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Choose the fastest exact schedule whose peak fits into a memory budget.

    Candidates are all editions with all numbers of micro-batches, trunk chunks, head chunks and heads per graph (powers
    of two). Each comes with and without activation checkpointing of the trunk and, on a GPU, with the trunk's saved
    tensors in host memory. Kinds of schedules that cannot be exact for this network are left out, by name. Batch and
    learning rate stay as they are.

    Steps:
        1. A few steps on tensors without data measure the costs of every part of the network
           (`planning/_measure_costs.py`). A formula derives every candidate's peak and time from them
           (`planning/_formula.py`). Nothing of full size runs.
        2. If the network is on the device, every kind of schedule in pieces or with a second pass is compared with
           `SummedLoss` on a few samples (`planning/_exactness.py`). Those that differ are left out, by name.
        3. If the network is on the device, its parts are timed there, at sizes that fit (`planning/_timings.py`). Else
           operations and bytes are counted (`planning/_operations.py`).
        4. If the network is on the device, the best candidates run a whole step each under a meter, and those that fit
           are timed in turns (`planning/_trials.py`). A schedule is preferred to a simpler one only if it is surely
           faster (`planning/_fastest.py`). Afterwards everything is restored, bit for bit, from copies of parameters
           and optimizer state in host memory.
        5. The chosen schedule is predicted directly, by category.

    Args:
        trunk: Function that maps the batch to the representation; on any device, "meta" too.
        tasks: Functions by name that map the representation and the batch to a 0-dim loss.
        batch: Batch of the size to plan for.
        optimizer: Optimizer, or list of several, whose states and steps count; None leaves them out.
        budget: Limit for the step's live tensors: a number of bytes; "6GiB", "6GB"; "80%" of the device's memory; or
            "auto" for the free memory less a reserve.
        device: "cuda" or "cpu"; None for the device of the network.
        form: How the training loop calls a schedule: "forward_backward" calls it as such; "loss" is for a trainer that
            calls `total.backward()` itself, after `total, losses = plan.edition.loss(trunk, tasks, batch)`.
        also: Further schedules to choose among: editions of your own, each with a formula (see `planning.phases`).
        build: Function that returns (trunk, tasks, batch, optimizer) in place of the arguments; it is called where
            tensors have no data.
        on_progress: Function that is called with the name of every stage when it begins.

    Returns:
        The plan. If nothing fits, it holds the reasons, and its `edition` raises `BudgetError`.

    Raises:
        ValueError: `budget`, `device` or `form` is invalid; or an optimizer needs a closure (LBFGS).
        TypeError: An edition in `also` has no formula, a callable keeps its modules in a closure, or a module is lazy;
            the message names the fix.
        PredictionError: The step does not run on tensors without data.
        MemoryError: Not even a few samples fit into memory, or none has a target.
    """
    require_form(form)
    for number, edition in enumerate(also):
        require_edition(edition, f"also[{number}]")
    if build is None:
        require_parts(trunk, tasks)
    parts: Parts | Build = build or (trunk, tasks, batch, steppable(optimizer))
    given = None if build is not None else TrainingStep(trunk, tasks, batch, optimizer, SummedLoss())
    target = _device(device, given)
    real = given if given is not None and given.device.type == target.type else None
    limit = in_bytes(budget, target, held=0 if real is None else _held_bytes(real))
    progress = Progress(on_progress)
    search = Search(parts, target, limit.size, real, progress, form=form, also=also)
    search.check(limit.size if real is None else _room(limit.size, target, real))
    search.time()
    choice = search.choose()
    front = search.pareto_front()
    candidate, peak = choice or (search.smallest, search.estimated(search.smallest))
    chosen = relative_to(search.summed, candidate)
    ratio = search.measured_ratio(candidate.edition)
    if ratio is not None:
        chosen = dataclasses.replace(chosen, time_ratio=ratio)
    largest = largest_batches(search.candidates, search.tables, limit.size)
    fixed = fixed_memory(search.resident, search.tables)
    return Plan(
        budget=limit,
        device=str(target),
        samples=search.samples,
        chosen=chosen if choice else None,
        peak=dataclasses.replace(peak, device=str(target)),
        summed=relative_to(search.summed, Candidate(in_form(SummedLoss(), form), search.summed)),
        front=front,
        candidates=len(search.candidates),
        left_out=search.left_out,
        largest_batch=largest,
        timed_by="timings of the parts" if search.timed else "operation counts",
        trials=tuple(search.trials),
        holds=fixed,
        advice=() if choice else tuple(advice(fixed, limit.size, search.left_out, largest)),
        spent=progress.spent,
        exactness=search.checks.verdicts if search.checks else {},
        notes=tuple(_notes(search, real)),
        form=form,
    )


def _notes(search: Search, real: TrainingStep | None) -> Iterator[str]:
    """Return the restrictions of a plan, for its reader."""
    if real is None:
        yield "exactness not checked, since the network is not on the device: job=check does it"
    if search.absent:
        names = ", ".join(map(repr, search.absent))
        yield f"no target in this batch: {names}; the plan is for the others. A misspelt target looks the same"
    yield from search.caveats


def _room(budget: int, device: torch.device, real: TrainingStep) -> int:
    """Return the bytes that a check may take for a moment: the budget or the device's free memory, if that is more."""
    return max(budget, in_bytes("auto", device, held=_held_bytes(real)).size)


def _device(device: str | torch.device | None, given: TrainingStep | None) -> torch.device:
    """Return the device to plan for; a GPU for a network without data and without a device of its own."""
    if device is None:
        own = torch.device("cuda") if given is None else given.device
        return torch.device("cuda") if own.type == "meta" else own
    return cpu_or_cuda(device)


def _held_bytes(step: TrainingStep) -> int:
    """Return the bytes of a step's tensors that exist already."""
    state = [] if step.optimizer is None else list(step.optimizer.state.values())
    return bytes_of([step.parameters, step.buffers, step.batch, state])
