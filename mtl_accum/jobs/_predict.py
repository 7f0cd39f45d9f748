"""The job that predicts an experiment's memory, edition by edition, for a device that need not be there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from mtl_accum import prediction, report
from mtl_accum.data import Data
from mtl_accum.editions import EditionLike, require_edition
from mtl_accum.jobs._experiment import MakeOptimizer, Run, header, make_optimizer, samples_in, snapshot_folder
from mtl_accum.jobs._require import require_editions, require_knobs, require_parts
from mtl_accum.models import MultiTaskModel

__all__ = ["predict"]


def predict(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    optimizer: MakeOptimizer,
    editions: Mapping[str, EditionLike],
    device: str,
    seed: int,
    snapshots: bool,
    run: Run,
) -> None:
    """Predict the peak memory of one training step with each edition, print the table and write the report.

    Args:
        model: trunk and tasks.
        data: whose first training batch says how large a batch is.
        optimizer: makes the optimizer from the parameters.
        editions: what to predict, by name; the first one is what the others are held against.
        device: what to predict for: "cuda" or "cpu"; "auto" is "cuda".
        seed: of the report only; nothing is random here.
        snapshots: write a file an edition for PyTorch's memory viewer into the folder `snapshots`.
        run: the folder for `report.json`, `report.md`, `report.html` and `pictures`.

    Raises:
        ValueError: a part of the experiment is missing, or there is no such device.
    """
    model, data = require_parts(model, data)
    require_editions("compare.editions", editions)
    require_knobs({"compare.snapshots": snapshots})
    kind = "cuda" if device == "auto" else str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda to predict for, found {device!r}")
    folder = snapshot_folder(run) if snapshots else None
    stepper = make_optimizer(optimizer, model)
    batch = next(iter(data.train()))
    rows = []
    files: list[str] = []  # of the snapshots
    for name, edition in editions.items():
        files.append(report.file_name(name, files))
        row: dict[str, Any] = {
            "edition": name,
            "meaning": require_edition(edition).summary,
            "memory": [],
            "step_seconds": [],
            "failure": None,
        }
        started = time.perf_counter()
        try:
            found = prediction.predict(
                *(model.trunk, model.tasks, batch),
                optimizer=stepper,
                edition=edition,
                device=kind,
                snapshot=None if folder is None else folder / f"{files[-1]}.pickle",
            )
            row["memory"].append(dataclasses.asdict(found))
        except (prediction.PredictionError, ValueError) as error:  # the others may still work
            row["failure"] = str(error)
        rows.append({**row, "predicted_in_seconds": time.perf_counter() - started})
    content = {
        **header(run, seed),
        "kind": "prediction",
        "device": {"type": kind},
        "samples": samples_in(batch),
        "editions": rows,
    }
    report.show(report.write(content, run.folder), run.folder)
