"""The job that plans an experiment for a memory budget, and `edition=auto`, which does so at the start of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mtl_accum import planning, report
from mtl_accum._knobs import check_knob
from mtl_accum._state import same_random_numbers
from mtl_accum.data import Data
from mtl_accum.jobs._experiment import MakeOptimizer, Run, header, make_optimizer
from mtl_accum.jobs._require import require_knobs, require_parts
from mtl_accum.memory import keep_freed_memory
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import Form, in_bytes
from mtl_accum.training.callbacks import ProgressDisplay
from mtl_accum.training.loop import alone_on, resolve, to_device

__all__ = ["Auto", "plan", "plan_and_write"]


@dataclass(frozen=True)
class Auto:
    """Stands for the fastest exact edition that fits, until the model and its data are there to choose it for.

    Args:
        budget: "6GiB", "6GB", "80%", "auto" or bytes.

    Raises:
        ValueError: budget is no such thing.
    """

    budget: int | str

    def __post_init__(self) -> None:
        check_knob("budget", self.budget)


def plan(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    optimizer: MakeOptimizer,
    budget: int | str,
    device: str,
    form: Form,
    seed: int,
    run: Run,
) -> None:
    """Choose the fastest exact edition that fits into a memory budget, print why, and write it down.

    Args:
        model: trunk and tasks.
        data: whose first training batch says how large a batch is.
        optimizer: makes the optimizer from the parameters.
        budget: "6GiB", "6GB", "80%", "auto" or bytes.
        device: "auto", "cpu", "cuda" or "cuda:N"; for a GPU that is not here the times are operation counts.
        form: how the training loop takes the edition: "forward_backward", or "loss" where a trainer runs the backward.
        seed: of dropout and noise where the pieces run.
        run: the folder for `plan.json` and `plan.md`.

    Raises:
        ValueError: a part of the experiment is missing, or budget, device or form are no such thing.
        BudgetError: nothing fits.
    """
    model, data = require_parts(model, data)
    require_knobs({"budget": budget, "device": device, "job.form": form})
    absent = str(device).partition(":")[0] == "cuda" and not torch.cuda.is_available()
    where = torch.device("cpu") if absent else resolve(device)
    keep_freed_memory()
    torch.manual_seed(seed)
    model.to(where)
    stepper = make_optimizer(optimizer, model)
    with ProgressDisplay() as progress:
        found = plan_and_write(
            *(model, data, stepper, budget),
            where=where,
            device="cuda" if absent else None,
            head=header(run, seed),
            run=run,
            on_progress=progress.note,
            form=form,
        )
    report.show_plan(found.as_dict(), run.folder)
    _ = found.edition  # raises where nothing fits


def plan_and_write(
    model: MultiTaskModel,
    data: Data,
    optimizer: torch.optim.Optimizer,
    budget: int | str,
    *,
    where: torch.device,
    device: str | None,
    head: dict[str, Any],
    run: Run,
    on_progress: Callable[[str], None],
    form: Form = "forward_backward",
) -> planning.Plan:
    """Plan for the first training batch, and write the plan into the run's folder; random numbers stay where they are.

    Args:
        model: on its device.
        data: whose first training batch counts.
        optimizer: of the model's parameters.
        budget: see `Auto`.
        where: the model's device.
        device: to plan for; None is the model's.
        head: how the run was started, for the file.
        run: the folder.
        on_progress: told in a few words what happens next.
        form: how the training loop takes the edition.
    """
    in_bytes(budget, torch.device(device or where))  # what is none is refused before anything waits for the device
    with same_random_numbers():
        batch = to_device(next(iter(data.train())), where)
        with alone_on(where):
            found = planning.plan(
                *(model.trunk, model.tasks, batch),
                optimizer=optimizer,
                budget=budget,
                device=device,
                form=form,
                on_progress=on_progress,
            )
    report.write_plan({**head, "plan": found.as_dict()}, run.folder)
    return found
