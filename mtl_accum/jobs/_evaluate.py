"""The job that measures trained weights on the test data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model

from mtl_accum import report
from mtl_accum.data import Data
from mtl_accum.jobs._experiment import Run, header
from mtl_accum.jobs._require import require_each, require_parts
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.checkpoint import FOLDER, WEIGHTS, check_weights, decode, expect_to_fit, of_path
from mtl_accum.training.evaluation import EvalMetric, evaluate, require_tasks
from mtl_accum.training.loop import resolve

__all__ = ["evaluate_saved"]


def evaluate_saved(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    measures: Mapping[str, EvalMetric],
    path: str | None,
    device: str,
    seed: int,
    run: Run,
) -> None:
    """Measure on the test data, print the table, and write `evaluation.json` and `evaluation.md`.

    Args:
        model: trunk and tasks; its weights are replaced.
        data: whose test batches are used.
        measures: figures of merit, by name.
        path: a run's folder (its `model.safetensors`, or else its newest checkpoint), such a file, or a checkpoint.
            Held against the digests that were written with it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: for the report.
        run: the folder for the files.

    Raises:
        ValueError: a part of the experiment is missing, or there are no weights that fit.
    """
    model, data = require_parts(model, data)
    require_each("measures", measures, EvalMetric)
    if not measures:
        raise ValueError("measures must hold at least one, found none; see conf/experiment/two_task.yaml")
    if not isinstance(path, str):
        raise ValueError(f"path must be a run's folder, found {path!r}; e.g. path=outputs/2026-01-31/12-00-00")
    require_tasks(measures, model)
    where = resolve(device)
    source, checked = _load_weights(model, Path(path))
    model.to(where)
    found = evaluate(model, measures, data.test(), device=where)
    content = {**header(run, seed), "weights": str(source), "metrics": found}
    written = report.write_evaluation(content, run.folder)
    report.show_table(report.metrics_table(written["metrics"]), [f"weights: {source} ({checked})"])
    report.show_path("Evaluation", run.folder / "evaluation.md")


def _load_weights(model: MultiTaskModel, path: Path) -> tuple[Path, str]:
    """Put weights into the model; return where they came from, and whether they are what was written there."""
    file = path / WEIGHTS if path.is_dir() else path
    try:
        if file.is_file():
            checked = check_weights(file)
            load_model(model, file)
            return file, checked
        found = of_path(path)
        if found is None:
            raise ValueError(f"path={path}: expected {WEIGHTS} or {FOLDER}/step-..., found neither")
        with expect_to_fit("model"):
            model.load_state_dict(decode(found.values["state"]["model"], found.tensors))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"path={path}: these weights do not fit this model: {' '.join(str(error).split())}") from None
    return found.path, "every file has its digest"
