"""The main job: train, test, then show the editions' memory side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save_model

from mtl_accum import report
from mtl_accum._compare import compare
from mtl_accum._validate import natural, positive_int
from mtl_accum.editions import Edition
from mtl_accum.memory import keep_freed_memory
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import schedules_of
from mtl_accum.training._device import alone_on, describe, resolve, to_device
from mtl_accum.training._evaluate import Measure, evaluate, require_tasks
from mtl_accum.training._experiment import (
    Data,
    MakeOptimizer,
    Run,
    header,
    make_optimizer,
    require_parts,
    samples_in,
    snapshot_folder,
)
from mtl_accum.training._fit import fit
from mtl_accum.training._images import Images, before_and_after, require_images, strips
from mtl_accum.training._plan import Auto, plan_and_write
from mtl_accum.training._progress import Progress

__all__ = ["train"]


def train(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    edition: Edition | Auto,
    optimizer: MakeOptimizer,
    measures: Mapping[str, Measure],
    images: Mapping[str, Images],
    editions: Mapping[str, Edition],
    training: bool,
    epochs: int,
    steps: int,
    snapshots: bool,
    device: str,
    seed: int,
    run: Run,
) -> None:
    """Train with one edition, test, measure several side by side, and write all of it down.

    Args:
        model: trunk and tasks, with their initial weights.
        data: what to train and test on.
        edition: computes the gradient in training; `Auto` has the planner choose it first.
        optimizer: makes the optimizer from the parameters.
        measures: figures of merit on the test data, by name.
        images: of the test data, for the report, by name.
        editions: what to measure side by side; the first one is what the others are held against.
        training: whether to train and test; else the editions are measured with the initial weights.
        epochs: how often to go through the training data; 0 only measures.
        steps: timed steps of each edition.
        snapshots: write a file an edition for PyTorch's memory viewer into the folder `snapshots`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of the random numbers in training.
        run: the folder for `report.json`, `report.md`, `report.html`, `pictures` and `model.safetensors`.

    Raises:
        ValueError: an argument is out of range, or a part of the experiment is missing.
        BudgetError: edition is `Auto`, and nothing fits into its budget.
        NoMemoryLeftError: memory ran out, and no schedule is left that needs less.
        FloatingPointError: a loss is NaN or infinite.
    """
    model, data = require_parts(model, data)
    natural("epochs", epochs)
    positive_int("compare.steps", steps)
    where = resolve(device)
    keep_freed_memory()
    torch.manual_seed(seed)
    model.to(where)
    stepper = make_optimizer(optimizer, model)
    require_tasks(measures, model)
    require_images(images, model)
    written: dict[str, Any] = header(run, seed)
    fallbacks: list[Edition] = []
    with Progress() as progress:
        if isinstance(edition, Auto):
            chosen = plan_and_write(
                *(model, data, stepper, edition.budget),
                where=where,
                device=None,
                head=written,
                run=run,
                on_progress=progress.note,
            )
            _ = chosen.edition  # raises where nothing fits
            written = {**written, "plan": chosen.as_dict()}
            edition, *fallbacks = schedules_of(written["plan"])  # what runs is what was written
            editions = {**editions, "auto": edition}
        if training:
            before = strips(model, images, data, "before training", device=where)
            written["training"] = _fit(
                *(model, data, [edition, *fallbacks], stepper), epochs=epochs, where=where, progress=progress
            )
            trained = model  # saved at once: whatever fails after this, the training was not for nothing
            report.write_whole(run.folder, {"model.safetensors": lambda path: save_model(trained, str(path))})
            written["metrics"] = evaluate(model, measures, data.test(), device=where)
            after = strips(model, images, data, "after training", device=where)
            written["images"] = before_and_after(before, after)
        model.train()
        batch = to_device(next(iter(data.train())), where)
        with alone_on(where):
            rows = compare(
                *(model.trunk, model.tasks, batch),
                optimizer=stepper,
                editions=editions,
                steps=steps,
                snapshots=snapshot_folder(run) if snapshots else None,
                on_progress=progress.note,
            )
    written = report.write(
        {
            **written,
            "device": describe(where),
            "samples": samples_in(batch),
            "editions": [asdict(row) for row in rows],
        },
        run.folder,
    )
    report.show(written, run.folder)


def _fit(
    model: MultiTaskModel,
    data: Data,
    schedules: Sequence[Edition],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    where: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Train, and say how it went, for the report."""
    batches, changes = data.train(), list[str]()
    started = time.perf_counter()
    losses = fit(
        *(model, batches, schedules[0], optimizer),
        epochs=epochs,
        device=where,
        fallbacks=schedules[1:],
        on_step=progress.training(epochs * len(batches) if isinstance(batches, Sized) else None),
        on_change=changes.append,
    )
    optimizer.zero_grad()
    return {"epochs": epochs, "seconds": time.perf_counter() - started, "losses": losses, "changes": changes}
