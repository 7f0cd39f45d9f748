"""The `train` job: train, test, then measure the editions' memory side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_accum import report
from mtl_accum._knob_rules import check_knob
from mtl_accum.editions import EditionLike, InBackward
from mtl_accum.jobs._comparison import Comparison
from mtl_accum.jobs._evaluation import Evaluation
from mtl_accum.jobs._experiment import Experiment, Prepared
from mtl_accum.jobs._fit import Recording, fit
from mtl_accum.jobs._header import header
from mtl_accum.jobs._plan import Auto, plan_and_write
from mtl_accum.jobs._require import require_edition, require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.memory import keep_freed_memory
from mtl_accum.planning import schedules_of
from mtl_accum.training.callbacks import ProgressDisplay
from mtl_accum.training.checkpoint import Checkpoint, find_checkpoint, save_weights
from mtl_accum.training.evaluation import before_and_after
from mtl_accum.training.loop import TrainConfig, set_deterministic

__all__ = ["train"]


def train(
    *,
    experiment: Experiment,
    edition: EditionLike | Auto,
    loop: TrainConfig,
    recording: Recording,
    evaluation: Evaluation,
    comparison: Comparison,
    training: bool,
    resume: str | None,
    run: Run,
) -> None:
    """Train with one edition, test, measure several side by side, and write a report.

    Args:
        experiment: Model, data, optimizer, device and seed.
        edition: Edition that computes the gradient in training; `Auto` has it planned first.
        loop: Settings of the training loop.
        recording: Checkpoints and logger.
        evaluation: Measures and images of the test data.
        comparison: Editions to measure side by side.
        training: Whether to train and test; if not, the editions are measured with the initial weights.
        resume: Folder of a run to resume, "auto", or None.
        run: Folder for `report.json`, `report.md`, `report.html`, `pictures`, `checkpoints` and `model.safetensors`.

    Raises:
        ValueError: An argument is out of range, or the checkpoint to resume is of another experiment.
        BudgetError: The edition is `Auto`, and nothing fits its budget.
        NoMemoryLeftError: Memory ran out, and no edition is left that needs less.
        FloatingPointError: A loss is NaN or infinite.
        StoppedError: A signal ended training; there is a checkpoint to resume from.
    """
    require_kind("job.experiment", experiment, Experiment)
    require_kind("job.loop", loop, TrainConfig)
    require_kind("job.recording", recording, Recording)
    require_kind("job.evaluation", evaluation, Evaluation)
    require_kind("job.comparison", comparison, Comparison)
    _require_to_fit(edition, loop, evaluation)
    check_knob("train", training)
    check_knob("resume", resume)
    keep_freed_memory()
    set_deterministic(loop.deterministic)
    prepared = experiment.prepare()
    evaluation.require_tasks_of(prepared.model)
    checkpoint = find_checkpoint(resume, run.folder, run.config) if training else None
    content = header(run, experiment.seed)
    with ProgressDisplay() as progress:
        schedules: Sequence[EditionLike]
        if isinstance(edition, Auto):
            content["plan"] = _plan_of(checkpoint, run) or _make_plan(prepared, edition, content, progress, run)
            schedules = schedules_of(content["plan"])  # the plan as written, which the report shows
            comparison = comparison.with_edition("auto", schedules[0])
        else:
            schedules = [edition]
        if training:
            before = evaluation.pictures(prepared, "before training")
            content["training"] = fit(
                *(prepared, schedules, loop, recording, evaluation),
                resumed=checkpoint,
                plan=content.get("plan"),
                progress=progress,
                run=run,
            )
            # Saved at once: a later failure must not cost the training.
            content["weights"] = save_weights(prepared.model, run.folder)
            content["metrics"] = evaluation.measure(prepared)
            content["images"] = before_and_after(before, evaluation.pictures(prepared, "after training"))
        if loop.step_in_backward:
            comparison = comparison.with_edition("step in backward", InBackward(schedules[0], prepared.optimizer))
        prepared.model.train()
        content |= comparison.measure(prepared, run.folder, progress.note)
    report.show(report.write(content, run.folder), run.folder)


def _require_to_fit(edition: EditionLike | Auto, loop: TrainConfig, evaluation: Evaluation) -> None:
    """Raise ValueError unless the edition is one, and `monitor` is a measure."""
    measures = evaluation.measures
    if loop.monitor is not None and loop.monitor not in measures:
        raise ValueError(f"monitor must be one of {', '.join(measures) or 'no measures'}; found {loop.monitor!r}")
    if not isinstance(edition, Auto):
        require_edition("edition", edition)


def _plan_of(checkpoint: Checkpoint | None, run: Run) -> dict[str, Any] | None:
    """Return the plan of the resumed run, unless it was made for another budget."""
    if checkpoint is None or _budget(checkpoint.values["config"]) != _budget(run.config):
        return None
    plan: dict[str, Any] | None = checkpoint.values.get("plan")
    return plan


def _budget(config: Mapping[str, Any]) -> Any:
    """Return the budget of `edition=auto`; a run before the class moved has another `_target_` beside it."""
    edition = config.get("edition")
    return edition.get("budget") if isinstance(edition, Mapping) else None


def _make_plan(
    prepared: Prepared, edition: Auto, head: dict[str, Any], progress: ProgressDisplay, run: Run
) -> dict[str, Any]:
    plan = plan_and_write(prepared, edition.budget, device=None, head=head, run=run, on_progress=progress.note)
    _ = plan.edition  # raises where nothing fits
    return plan.as_dict()
