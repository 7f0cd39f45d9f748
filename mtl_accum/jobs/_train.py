"""The main job: train, test, then show the editions' memory side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mtl_accum import report
from mtl_accum.data import Data
from mtl_accum.editions import EditionLike, InBackward
from mtl_accum.jobs._experiment import MakeOptimizer, Run, header, make_optimizer, samples_in, snapshot_folder
from mtl_accum.jobs._plan import Auto, plan_and_write
from mtl_accum.jobs._require import require_each, require_edition, require_editions, require_knobs, require_parts
from mtl_accum.measure import compare
from mtl_accum.memory import keep_freed_memory
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import schedules_of
from mtl_accum.training.callbacks import (
    CheckpointCallback,
    CheckpointConfig,
    Dispensable,
    MakeLogger,
    MetricsCallback,
    ProgressDisplay,
    ValidationCallback,
    training_metrics,
)
from mtl_accum.training.checkpoint import FOLDER, Checkpoint, find, save_weights
from mtl_accum.training.evaluation import (
    EvalMetric,
    Images,
    before_and_after,
    evaluate,
    image_rows,
    require_images,
    require_tasks,
)
from mtl_accum.training.loop import (
    Callback,
    StoppedError,
    TrainConfig,
    Training,
    alone_on,
    describe,
    deterministic,
    resolve,
    scale_learning_rate,
    to_device,
)

__all__ = ["train"]

_LOG = logging.getLogger(__name__)


def train(
    *,
    model: MultiTaskModel | None,
    data: Data | None,
    edition: EditionLike | Auto,
    optimizer: MakeOptimizer,
    loop: TrainConfig,
    checkpoint: CheckpointConfig,
    logger: MakeLogger | None,
    log_every: int,
    resume: str | None,
    measures: Mapping[str, EvalMetric],
    images: Mapping[str, Images],
    editions: Mapping[str, EditionLike],
    training: bool,
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
        loop: how to train.
        checkpoint: when to write checkpoints.
        logger: makes what is told of losses, metrics, speed and memory; None tells nobody.
        log_every: steps.
        resume: what to go on from: a run's folder, "auto", or None.
        measures: figures of merit on the test data, by name.
        images: of the test data, for the report, by name.
        editions: what to measure side by side; the first one is what the others are held against.
        training: whether to train and test; else the editions are measured with the initial weights.
        steps: timed steps of each edition.
        snapshots: write a file an edition for PyTorch's memory viewer into the folder `snapshots`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of the random numbers in training.
        run: the folder for `report.json`, `report.md`, `report.html`, `pictures`, `checkpoints` and
            `model.safetensors`.

    Raises:
        ValueError: an argument is out of range, a part of the experiment is missing, or `resume` is of another one.
        BudgetError: edition is `Auto`, and nothing fits into its budget.
        NoMemoryLeftError: memory ran out, and no schedule is left that needs less.
        FloatingPointError: a loss is NaN or infinite.
        StoppedError: a signal asked for the end; there is a checkpoint to go on from.
    """
    model, data = require_parts(model, data)
    require_knobs({"train": training, "compare.steps": steps, "compare.snapshots": snapshots, "log_every": log_every})
    require_knobs({"resume": resume, "seed": seed})
    _require_settings(loop, checkpoint, logger, measures, images)
    if not isinstance(edition, Auto):
        require_edition("edition", edition)
    require_editions("compare.editions", editions)
    where = resolve(device)
    keep_freed_memory()
    deterministic(loop.deterministic)
    torch.manual_seed(seed)
    model.to(where)
    stepper = make_optimizer(optimizer, model)
    require_tasks(measures, model)
    require_images(images, model)
    found = find(resume, run.folder, run.config) if training else None
    written: dict[str, Any] = header(run, seed)
    fallbacks: Sequence[EditionLike] = []
    with ProgressDisplay() as progress:
        if isinstance(edition, Auto):
            written["plan"] = _plan_of(found, run)
            if written["plan"] is None:
                chosen = plan_and_write(
                    *(model, data, stepper, edition.budget),
                    where=where,
                    device=None,
                    head=written,
                    run=run,
                    on_progress=progress.note,
                )
                _ = chosen.edition  # raises where nothing fits
                written["plan"] = chosen.as_dict()
            edition, *fallbacks = schedules_of(written["plan"])  # what runs is what was written
            editions = {**editions, "auto": edition}
        if training:
            before = image_rows(model, images, data, "before training", device=where)
            schedules = [edition, *fallbacks]
            parts = _Parts(model, data, data.train(), schedules, stepper, loop, checkpoint, measures, run, where)
            with ExitStack() as stack:
                callbacks = [*_callbacks(parts, logger, log_every, stack), _keeper(parts, found, written.get("plan"))]
                written["training"] = _fit(parts, found, [*callbacks, progress.training(_steps(parts))])
            # Saved at once: whatever fails after this, the training was not for nothing.
            written["weights"] = save_weights(model, run.folder)
            written["metrics"] = evaluate(model, measures, data.test(), device=where)
            after = image_rows(model, images, data, "after training", device=where)
            written["images"] = before_and_after(before, after)
        if loop.step_in_backward:
            editions = {**editions, "step in backward": InBackward(edition, stepper)}
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


@dataclass(frozen=True)
class _Parts:
    """What a training is made of."""

    model: MultiTaskModel
    data: Data
    batches: Iterable[Any]
    schedules: Sequence[EditionLike]
    optimizer: torch.optim.Optimizer
    loop: TrainConfig
    checkpoint: CheckpointConfig
    measures: Mapping[str, EvalMetric]
    run: Run
    where: torch.device


def _require_settings(
    loop: TrainConfig,
    checkpoint: CheckpointConfig,
    logger: MakeLogger | None,
    measures: Mapping[str, EvalMetric],
    images: Mapping[str, Images],
) -> None:
    """Raise ValueError unless what `train` is given is what its annotations say."""
    require_each("job", {"loop": loop}, TrainConfig)
    require_each("job", {"checkpoint": checkpoint}, CheckpointConfig)
    require_each("measures", measures, EvalMetric)
    require_each("images", images, Images)
    if loop.monitor is not None and loop.monitor not in measures:
        raise ValueError(f"monitor must be one of {', '.join(measures) or 'no measures'}; found {loop.monitor!r}")
    if logger is not None and not callable(logger):
        raise ValueError(f"logger must make a logger, found {logger!r:.200}; see _partial_")


def _plan_of(found: Checkpoint | None, run: Run) -> Any:
    """The plan that the run made which is gone on from, unless another budget is asked for now."""
    if found is None or found.values["config"].get("edition") != run.config.get("edition"):
        return None
    return found.values.get("plan")


def _fit(parts: _Parts, found: Checkpoint | None, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Train, and say how it went, for the report."""
    loop, changes = parts.loop, list[str]()
    sentence = scale_learning_rate(
        *(parts.optimizer, loop.lr_scaling),
        batch_size=getattr(parts.batches, "batch_size", None),
        accumulate=loop.accumulate,
        base_batch_size=loop.base_batch_size,
    )
    _LOG.info(sentence)
    training = Training(
        *(parts.model, parts.batches, parts.schedules, parts.optimizer, loop),
        device=parts.where,
        callbacks=callbacks,
        on_change=changes.append,
    )
    if found is not None:
        training.restore(found.tensors, found.values)
        found.tensors.clear()  # the run has them now
        _LOG.info("goes on from %s: %d steps are done", found.path, training.position.step)
    started = time.perf_counter()
    try:
        losses = training.run()
    except StoppedError as stopped:
        said = f"{stopped}; resume={parts.run.folder} goes on from there"
        raise StoppedError(said, stopped.exit_code - 128) from None
    parts.optimizer.zero_grad()
    if training.ended:
        changes.append(training.ended)
    return {
        "epochs": training.position.epoch,
        "seconds": time.perf_counter() - started,
        "losses": losses,
        "changes": [sentence, *changes],
        "skipped": training.update.skipped,
        "validation": training.kept.get("validation", []),
    }


def _callbacks(parts: _Parts, make_logger: MakeLogger | None, every: int, stack: ExitStack) -> Iterator[Callback]:
    """Logging and validation, as far as they are wanted."""
    on_measured: Callable[[int, dict[str, float]], None] = lambda step, found: None  # noqa: E731
    if make_logger is not None:
        logger = Dispensable(make_logger(parts.run.folder, parts.run.config))
        stack.callback(logger.close)
        metrics = stack.enter_context(training_metrics(parts.model, parts.measures, parts.where))
        record = MetricsCallback(logger, every, metrics)
        on_measured = record.validated
        yield record
    batches: Any = getattr(parts.data, "validation", lambda: None)
    if batches() is not None:
        yield ValidationCallback(parts.measures, batches, on_measured)
    elif parts.loop.monitor is not None:
        raise ValueError(f"monitor={parts.loop.monitor}: expected validation data, found none; see conf/data")


def _keeper(parts: _Parts, found: Checkpoint | None, plan: Any) -> Callback:
    own = parts.run.folder / FOLDER
    overwrite = found is None or found.path.parent.resolve() != own.resolve()
    if overwrite and own.exists():
        _LOG.warning("checkpoints of an earlier run in %s will be replaced; resume=auto goes on from them", own)
    return CheckpointCallback(
        parts.checkpoint, parts.run.folder, {"config": parts.run.config, "plan": plan}, overwrite=overwrite
    )


def _steps(parts: _Parts) -> int | None:
    batches, loop = parts.batches, parts.loop
    return loop.epochs * -(-len(batches) // loop.accumulate) if isinstance(batches, Sized) else None
