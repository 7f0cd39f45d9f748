"""The `evaluate` job: measure trained weights on the test data."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model

from mtl_accum import report
from mtl_accum.jobs._evaluation import Evaluation
from mtl_accum.jobs._experiment import Experiment
from mtl_accum.jobs._header import header
from mtl_accum.jobs._require import require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.checkpoint import FOLDER, WEIGHTS, check_weights, checkpoint_at, decode, expect_to_fit
from mtl_accum.training.evaluation import evaluate
from mtl_accum.training.loop import resolve_device

__all__ = ["evaluate_saved"]


def evaluate_saved(*, experiment: Experiment, evaluation: Evaluation, path: str | None, run: Run) -> None:
    """Measure on the test data, print the table, and write `evaluation.json` and `evaluation.md`.

    Args:
        experiment: Model, whose weights are replaced, data and device.
        evaluation: Figures of merit.
        path: Folder of a run (its `model.safetensors`, or else its newest checkpoint), such a file, or a checkpoint.
            Its digests are verified.
        run: Folder for the files.

    Raises:
        ValueError: There are no measures, or no weights that fit.
    """
    require_kind("job.experiment", experiment, Experiment)
    require_kind("job.evaluation", evaluation, Evaluation)
    model = experiment.model
    if not evaluation.measures:
        raise ValueError("measures must hold at least one, found none; see conf/experiment/two_task.yaml")
    if not isinstance(path, str):
        raise ValueError(f"path must be a run's folder, found {path!r}; e.g. path=outputs/2026-01-31/12-00-00")
    evaluation.require_tasks_of(model)
    device = resolve_device(experiment.device)
    source, verified = _load_weights(model, Path(path))
    model.to(device)
    metrics = evaluate(model, evaluation.measures, experiment.data.test(), device=device)
    content = {**header(run, experiment.seed), "weights": str(source), "metrics": metrics}
    written = report.write_evaluation(content, run.folder)
    report.show_table(report.metrics_table(written["metrics"]), [f"weights: {source} ({verified})"])
    report.show_path("Evaluation", run.folder / "evaluation.md")


def _load_weights(model: MultiTaskModel, path: Path) -> tuple[Path, str]:
    """Load weights into the model; return their file or checkpoint, and how their digests were verified."""
    file = path / WEIGHTS if path.is_dir() else path
    try:
        if file.is_file():
            verified = check_weights(file)
            load_model(model, file)
            return file, verified
        checkpoint = checkpoint_at(path)
        if checkpoint is None:
            raise ValueError(f"path={path}: expected {WEIGHTS} or {FOLDER}/step-..., found neither")
        with expect_to_fit("model"):
            model.load_state_dict(decode(checkpoint.values["state"]["model"], checkpoint.tensors))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"path={path}: these weights do not fit this model: {' '.join(str(error).split())}") from None
    return checkpoint.path, "every file has its digest"
