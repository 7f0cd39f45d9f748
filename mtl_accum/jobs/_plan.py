"""The `plan` job: choose an edition for a memory budget; and `edition=auto`, which does so when training starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mtl_accum import planning, report
from mtl_accum._knob_rules import check_knob
from mtl_accum._state import same_random_numbers
from mtl_accum.jobs._experiment import Experiment, Prepared
from mtl_accum.jobs._header import header
from mtl_accum.jobs._require import require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.memory import keep_freed_memory
from mtl_accum.planning import Form, in_bytes
from mtl_accum.training.callbacks import ProgressDisplay
from mtl_accum.training.loop import lock_device

__all__ = ["Auto", "plan", "plan_and_write"]


@dataclass(frozen=True)
class Auto:
    """Placeholder for the fastest exact edition that fits a budget, chosen once the model and its data are built.

    Args:
        budget: "6GiB", "6GB", "80%", "auto" or a number of bytes.

    Raises:
        ValueError: The budget is none of these.
    """

    budget: int | str

    def __post_init__(self) -> None:
        check_knob("budget", self.budget)


def plan(*, experiment: Experiment, budget: int | str, form: Form, run: Run) -> None:
    """Choose the fastest exact edition that fits a memory budget, print the reasons, and write them down.

    Args:
        experiment: Model, first training batch, optimizer, device and seed. For a GPU that is absent, the times are
            numbers of operations.
        budget: Budget as of `Auto`.
        form: Use of the edition in the training loop: "forward_backward", or "loss" for a trainer that runs the
            backward itself.
        run: Folder for `plan.json` and `plan.md`.

    Raises:
        ValueError: The budget, the device or the form is none.
        BudgetError: Nothing fits.
    """
    require_kind("job.experiment", experiment, Experiment)
    check_knob("budget", budget)
    check_knob("job.form", form)
    absent = experiment.device.startswith("cuda") and not torch.cuda.is_available()
    keep_freed_memory()
    prepared = experiment.prepare(torch.device("cpu") if absent else None)
    with ProgressDisplay() as progress:
        result = plan_and_write(
            *(prepared, budget),
            device="cuda" if absent else None,
            head=header(run, experiment.seed),
            run=run,
            on_progress=progress.note,
            form=form,
        )
    report.show_plan(result.as_dict(), run.folder)
    _ = result.edition  # raises where nothing fits


def plan_and_write(
    prepared: Prepared,
    budget: int | str,
    *,
    device: str | None,
    head: dict[str, Any],
    run: Run,
    on_progress: Callable[[str], None],
    form: Form = "forward_backward",
) -> planning.Plan:
    """Plan for the first training batch, and write the plan into the run's folder; random numbers stay as they are.

    Args:
        prepared: Experiment to plan for.
        budget: Budget as of `Auto`.
        device: Device to plan for; None is the experiment's.
        head: Header of the plan's file.
        run: Folder of the file.
        on_progress: Function that is called with a few words about the next step.
        form: Use of the edition in the training loop.
    """
    in_bytes(budget, torch.device(device or prepared.device))  # refuses a wrong budget before the wait for the device
    with same_random_numbers():
        batch = prepared.first_batch()
        with lock_device(prepared.device):
            result = planning.plan(
                *(prepared.model.trunk, prepared.model.tasks, batch),
                optimizer=prepared.optimizer,
                budget=budget,
                device=device,
                form=form,
                on_progress=on_progress,
            )
    report.write_plan({**head, "plan": result.as_dict()}, run.folder)
    return result
