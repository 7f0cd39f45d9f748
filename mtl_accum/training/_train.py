"""The main job: train, test, then show the editions' memory side by side."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_model
from torch import nn

import mtl_accum
from mtl_accum import report
from mtl_accum._compare import compare
from mtl_accum._validate import natural, positive_int
from mtl_accum.editions import Edition
from mtl_accum.memory import keep_freed_memory
from mtl_accum.models import MultiTaskModel
from mtl_accum.training._device import describe, resolve, to_device
from mtl_accum.training._evaluate import Measure, evaluate, require_tasks
from mtl_accum.training._fit import fit
from mtl_accum.training._progress import Progress

__all__ = ["Data", "MakeOptimizer", "Run", "make_optimizer", "require_parts", "train"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Data(Protocol):
    """A data set."""

    def train(self) -> Iterable[Any]:
        """Batches of one epoch at every iteration."""
        ...

    def test(self) -> Iterable[Any]:
        """Batches to measure on."""
        ...


@dataclass(frozen=True)
class Run:
    """Where a job writes, and what a report says about how it was started."""

    folder: Path
    command: str
    config: dict[str, Any]


def train(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    edition: Edition,
    optimizer: MakeOptimizer,
    measures: Mapping[str, Measure],
    editions: Mapping[str, Edition],
    epochs: int,
    steps: int,
    device: str,
    seed: int,
    run: Run,
) -> None:
    """Train with one edition, test, measure several side by side, and write all of it down.

    Args:
        model: trunk and tasks, with their initial weights.
        data: what to train and test on.
        edition: computes the gradient in training.
        optimizer: makes the optimizer from the parameters.
        measures: figures of merit on the test data, by name.
        editions: what to measure side by side; the first one is what the others are held against.
        epochs: how often to go through the training data; 0 only measures.
        steps: timed steps of each edition.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of the random numbers in training.
        run: the folder for `report.json`, `report.md`, `memory.png` and `model.safetensors`.

    Raises:
        ValueError: an argument is out of range, or a part of the experiment is missing.
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
    batches = data.train()
    started = time.perf_counter()
    with Progress() as progress:
        on_step = progress.training(epochs * len(batches) if isinstance(batches, Sized) else None)
        losses = fit(model, batches, edition, stepper, epochs=epochs, device=where, on_step=on_step)
        seconds = time.perf_counter() - started
        stepper.zero_grad()
        trained = model  # saved at once: whatever fails after this, the training was not for nothing
        report.write_whole(run.folder, {"model.safetensors": lambda path: save_model(trained, str(path))})
        metrics = evaluate(model, measures, data.test(), device=where)
        model.train()
        rows = compare(
            model.trunk,
            model.tasks,
            to_device(next(iter(batches)), where),
            optimizer=stepper,
            editions=editions,
            steps=steps,
            on_progress=progress.note,
        )
    written = report.write(
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": run.command,
            "seed": seed,
            "device": describe(where),
            "versions": _versions(),
            "git_commit": _git_commit(),
            "config": run.config,
            "training": {"epochs": epochs, "seconds": seconds, "losses": losses},
            "metrics": metrics,
            "editions": [asdict(row) for row in rows],
        },
        run.folder,
    )
    report.show(written, run.folder)


def require_parts(model: MultiTaskModel | None, data: Data | None) -> tuple[MultiTaskModel, Data]:
    """The model and the data of an experiment, which the command line may have left out."""
    if model is None or data is None:
        raise ValueError("nothing to train: expected model and data, found none; add +experiment=two_task")
    return model, data


def make_optimizer(optimizer: MakeOptimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters; what it refuses is a ValueError that says so."""
    try:
        return optimizer(model.parameters())
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}") from error


def _versions() -> dict[str, str]:
    versions = {
        "mtl_accum": mtl_accum.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return {**versions, "platform": sys.platform}


def _git_commit() -> str | None:
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
