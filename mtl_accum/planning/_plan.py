"""From a memory budget to the fastest exact schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk, require_edition, require_parts
from mtl_accum.memory import Build, Parts, TrainingStep
from mtl_accum.planning._budget import in_bytes
from mtl_accum.planning._choice import Candidate, largest_batches, schedule, what_helps, what_holds
from mtl_accum.planning._clock import Clock
from mtl_accum.planning._form import Form, in_form, require_form
from mtl_accum.planning._probe import bytes_of
from mtl_accum.planning._result import Plan
from mtl_accum.planning._search import Search
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

    Candidates are all editions in all numbers of micro-batches, trunk chunks, head chunks and heads per graph (powers
    of two), each with and without activation checkpointing of the trunk and, on a GPU, with the trunk's saved tensors
    on the host. What cannot be exact for this network is left out, by name. Batch and learning rate stay as they are.

    Steps:
        1. A few runs on tensors without data tell what every part of the network needs; a formula makes every
           candidate's peak and time of it (`planning/_formula.py`). Nothing of full size runs.
        2. Where the network is on the device, its parts are timed there, at sizes that fit; else operations and bytes
           are counted (`planning/_operations.py`).
        3. Where it is, every kind of schedule in pieces or with a replay is held against `SummedLoss` on a few samples
           (`planning/_exactness.py`); what differs is left out, by name.
        4. Where it is, the best candidates run a whole step each under a meter, and those that fit are timed against
           each other. A schedule is preferred to a simpler one only if it is surely faster
           (`planning/_fastest.py`). All that this changes is put back, bit for bit; the copies of parameters and
           optimizer state are on the host.
        5. The chosen one is predicted directly, by category.

    Args:
        trunk: maps the batch to the representation; on any device, "meta" too.
        tasks: by name, maps the representation and the batch to a 0-dim loss.
        batch: of the size to plan for.
        optimizer: one or a list of several, whose state and step count; None leaves them out.
        budget: of the step's live tensors: bytes, or "6GiB", "6GB", "80%" of the device's memory, or "auto": what is
            free there less a reserve.
        device: "cuda" or "cpu"; None is where the network is.
        form: how the training loop takes a schedule: "forward_backward" calls it; "loss" is for a trainer that calls
            `total.backward()` itself, after `total, losses = plan.edition.loss(trunk, tasks, batch)`.
        also: Further schedules to choose among: editions of one's own, each with a formula (see `planning.phases`).
        build: returns (trunk, tasks, batch, optimizer) in place of those given, called where tensors have no data.
        on_progress: told in a few words what happens next.

    Returns:
        The plan. Where nothing fits, it says why, and its `edition` raises `BudgetError`.

    Raises:
        ValueError: budget, device or form is no such thing; or an optimizer needs a closure (LBFGS).
        TypeError: an edition in `also` has no formula, a callable keeps its modules in a closure, or a module is lazy;
            the message names the fix.
        PredictionError: the step does not run on tensors without data.
    """
    require_form(form)
    for number, edition in enumerate(also):
        require_edition(edition, f"also[{number}]")
    if build is None:
        require_parts(trunk, tasks)
    parts: Parts | Build = build or (trunk, tasks, batch, steppable(optimizer))
    given = None if build is not None else TrainingStep(trunk, tasks, batch, optimizer, SummedLoss())
    where = _device(device, given)
    real = given if given is not None and given.device.type == where.type else None
    allowed = in_bytes(budget, where, held=0 if real is None else _held(real))
    clock = Clock(on_progress)
    search = Search(parts, where, allowed.size, real, clock, form=form, also=also)
    search.check(allowed.size if real is None else _room(allowed.size, where, real))
    search.time()
    choice = search.choose()
    front = search.front()
    option, peak = choice or (search.smallest, search.formula(search.smallest))
    chosen = schedule(option, search.summed)
    ratio = search.ratio(option.edition)
    if ratio is not None:
        chosen = dataclasses.replace(chosen, time_ratio=ratio)
    largest = largest_batches(search.options, search.tables, allowed.size)
    holds = what_holds(search.rests, search.tables)
    return Plan(
        budget=allowed,
        device=str(where),
        samples=search.samples,
        chosen=chosen if choice else None,
        peak=dataclasses.replace(peak, device=str(where)),
        summed=schedule(Candidate(in_form(SummedLoss(), form), search.summed), search.summed),
        front=front,
        candidates=len(search.options),
        left_out=search.left_out,
        largest_batch=largest,
        timed_by="timings of the pieces" if search.timed else "operation counts",
        trials=tuple(search.trials),
        holds=holds,
        advice=() if choice else tuple(what_helps(holds, allowed.size, search.left_out, largest)),
        spent=clock.spent,
        exactness=search.exactness.verdicts if search.exactness else {},
        notes=tuple(_notes(search, real)),
        form=form,
    )


def _notes(search: Search, real: TrainingStep | None) -> Iterator[str]:
    """What a reader must know besides the figures."""
    if real is None:
        yield "exactness not checked, since the network is not on the device: job=check does it"
    if search.absent:
        names = ", ".join(map(repr, search.absent))
        yield f"no target in this batch: {names}; planned is for the others. A misspelt target looks the same"
    yield from search.caveats


def _room(budget: int, where: torch.device, real: TrainingStep) -> int:
    """Bytes that a check may take for a moment: the budget, or what is free on the device, if that is more."""
    return max(budget, in_bytes("auto", where, held=_held(real)).size)


def _device(device: str | torch.device | None, given: TrainingStep | None) -> torch.device:
    if device is None:
        there = torch.device("cuda") if given is None else given.device
        return torch.device("cuda") if there.type == "meta" else there
    return cpu_or_cuda(device)


def _held(step: TrainingStep) -> int:
    """Bytes of a step's tensors that are there already."""
    state = [] if step.optimizer is None else list(step.optimizer.state.values())
    return bytes_of([step.parameters, step.buffers, step.batch, state])
