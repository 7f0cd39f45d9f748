"""The `predict` job: predict an experiment's memory, edition by edition, without the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mtl_accum import prediction, report
from mtl_accum.editions import EditionLike, require_edition
from mtl_accum.jobs._comparison import Comparison
from mtl_accum.jobs._experiment import Experiment, samples_in
from mtl_accum.jobs._header import header
from mtl_accum.jobs._require import require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.memory import PeakMemory

__all__ = ["predict"]


def predict(*, experiment: Experiment, comparison: Comparison, run: Run) -> None:
    """Predict the peak memory of one training step with each edition, print the table and write the report.

    Args:
        experiment: Model, data and optimizer of the step. Its device is the one to predict for: "cpu", or "cuda" for
            every other name.
        comparison: Editions, and whether to write snapshots.
        run: Folder for `report.json`, `report.md`, `report.html` and `pictures`.

    Raises:
        ValueError: The optimizer is not usable.
    """
    require_kind("job.experiment", experiment, Experiment)
    require_kind("job.comparison", comparison, Comparison)
    device = "cpu" if experiment.device == "cpu" else "cuda"
    folder = comparison.snapshot_folder(run.folder)
    optimizer = experiment.build_optimizer()
    batch = next(iter(experiment.data.train()))
    predict_step = partial(
        prediction.predict,
        *(experiment.model.trunk, experiment.model.tasks, batch),
        optimizer=optimizer,
        device=device,
    )
    rows, file_names = [], list[str]()
    for name, edition in comparison.editions.items():
        file_names.append(report.file_name(name, file_names))
        snapshot = None if folder is None else folder / f"{file_names[-1]}.pickle"
        rows.append(_row(name, edition, predict_step, snapshot))
    content = {
        **header(run, experiment.seed),
        "kind": "prediction",
        "device": {"type": device},
        "samples": samples_in(batch),
        "editions": rows,
    }
    report.show(report.write(content, run.folder), run.folder)


def _row(
    name: str, edition: EditionLike, predict_step: Callable[..., PeakMemory], snapshot: Path | None
) -> dict[str, Any]:
    """Predict for one edition; return its row of the report, with the reason where that fails."""
    started = time.perf_counter()
    memory, failure = list[dict[str, Any]](), None
    try:
        memory.append(asdict(predict_step(edition=edition, snapshot=snapshot)))
    except (prediction.PredictionError, ValueError) as error:  # the other editions may still work
        failure = str(error)
    return {
        "edition": name,
        "meaning": require_edition(edition).summary,
        "memory": memory,
        "step_seconds": [],
        "failure": failure,
        "predicted_in_seconds": time.perf_counter() - started,
    }
