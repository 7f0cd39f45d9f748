"""Training of a prepared experiment: learning rate, callbacks, the checkpoint to resume from, the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from mtl_accum._knob_rules import check_knob
from mtl_accum.data import Data
from mtl_accum.editions import EditionLike
from mtl_accum.jobs._evaluation import Evaluation
from mtl_accum.jobs._experiment import Prepared
from mtl_accum.jobs._require import require_kind
from mtl_accum.jobs._run import Run
from mtl_accum.training.callbacks import (
    CheckpointCallback,
    CheckpointConfig,
    FaultTolerantLogger,
    MakeLogger,
    MetricsCallback,
    ProgressDisplay,
    ValidationCallback,
    training_metrics,
)
from mtl_accum.training.checkpoint import FOLDER, Checkpoint
from mtl_accum.training.loop import StoppedError, TrainConfig, Training, scale_learning_rate

__all__ = ["Recording", "fit"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """What a training run writes while it trains.

    Args:
        checkpoint: When checkpoints are written.
        logger: Function that makes the logger of losses, metrics, speed and memory; None logs nothing.
        log_every: Number of steps between two entries of the logger.

    Raises:
        ValueError: An argument is out of range or of the wrong kind.
    """

    checkpoint: CheckpointConfig
    logger: MakeLogger | None
    log_every: int

    def __post_init__(self) -> None:
        require_kind("job.recording.checkpoint", self.checkpoint, CheckpointConfig)
        if self.logger is not None and not callable(self.logger):
            raise ValueError(f"logger must make a logger, found {self.logger!r:.200}; see _partial_")
        check_knob("log_every", self.log_every)


def fit(
    prepared: Prepared,
    schedules: Sequence[EditionLike],
    loop: TrainConfig,
    recording: Recording,
    evaluation: Evaluation,
    *,
    resumed: Checkpoint | None,
    plan: Mapping[str, Any] | None,
    progress: ProgressDisplay,
    run: Run,
) -> dict[str, Any]:
    """Train an experiment; return the epochs, seconds, losses and changes for the report.

    Args:
        prepared: Experiment to train.
        schedules: Editions; the first one computes the gradient, the others replace it where memory runs out.
        loop: Settings of the loop.
        recording: Checkpoints and logger.
        evaluation: Measures on training and validation data.
        resumed: Checkpoint to resume from; None starts from the beginning.
        plan: Plan to write into checkpoints, where one was made.
        progress: Display of the steps.
        run: Folder and configuration.

    Raises:
        StoppedError: A signal ended training; the message names the folder to resume from.
    """
    batches = prepared.data.train()
    scaling = scale_learning_rate(
        *(prepared.optimizer, loop.lr_scaling),
        batch_size=getattr(batches, "batch_size", None),
        accumulate=loop.accumulate,
        base_batch_size=loop.base_batch_size,
    )
    _LOG.info(scaling)
    changes = [scaling]
    with _metrics(prepared, recording, evaluation, run) as metrics:
        callbacks = [
            metrics,
            _validation(prepared.data, evaluation, loop, metrics),
            _checkpoints(recording.checkpoint, resumed, plan, run),
            progress.training(_count_steps(batches, loop)),
        ]
        training = Training(
            *(prepared.model, batches, schedules, prepared.optimizer, loop),
            device=prepared.device,
            callbacks=[callback for callback in callbacks if callback is not None],
            on_change=changes.append,
        )
        if resumed is not None:
            _resume(training, resumed)
        started = time.perf_counter()
        losses = _run(training, run)
        seconds = time.perf_counter() - started
    prepared.optimizer.zero_grad()
    return {
        "epochs": training.position.epoch,
        "seconds": seconds,
        "losses": losses,
        "changes": [*changes, *([training.ended] if training.ended else [])],
        "skipped": training.update.skipped,
        "validation": training.kept.get("validation", []),
    }


def _resume(training: Training, checkpoint: Checkpoint) -> None:
    training.restore(checkpoint.tensors, checkpoint.values)
    checkpoint.tensors.clear()  # copied into the model and the optimizer; these would only take memory
    _LOG.info("resumed from %s: %d steps are done", checkpoint.path, training.position.step)


def _run(training: Training, run: Run) -> dict[str, list[float]]:
    try:
        return training.run()
    except StoppedError as stopped:
        raise StoppedError(f"{stopped}; resume={run.folder} continues from there", stopped.exit_code - 128) from None


@contextmanager
def _metrics(
    prepared: Prepared, recording: Recording, evaluation: Evaluation, run: Run
) -> Iterator[MetricsCallback | None]:
    """Open the logger inside the block; the callback writes to it. Without a logger there is none."""
    if recording.logger is None:
        yield None
        return
    logger = FaultTolerantLogger(recording.logger(run.folder, run.config))
    with closing(logger), training_metrics(prepared.model, evaluation.measures, prepared.device) as metrics:
        yield MetricsCallback(logger, recording.log_every, metrics)


def _validation(
    data: Data, evaluation: Evaluation, loop: TrainConfig, metrics: MetricsCallback | None
) -> ValidationCallback | None:
    """Make the callback of validation; None without validation data."""
    batches: Any = getattr(data, "validation", lambda: None)
    if batches() is not None:
        log = (metrics.log_validation,) if metrics is not None else ()
        return ValidationCallback(evaluation.measures, batches, *log)
    if loop.monitor is not None:
        raise ValueError(f"monitor={loop.monitor}: expected validation data, found none; see conf/data")
    return None


def _checkpoints(
    config: CheckpointConfig, resumed: Checkpoint | None, plan: Mapping[str, Any] | None, run: Run
) -> CheckpointCallback:
    own = run.folder / FOLDER
    overwrite = resumed is None or resumed.path.parent.resolve() != own.resolve()
    if overwrite and own.exists():
        _LOG.warning("checkpoints of an earlier run in %s will be replaced; resume=auto continues that run", own)
    return CheckpointCallback(config, run.folder, {"config": run.config, "plan": plan}, overwrite=overwrite)


def _count_steps(batches: Any, loop: TrainConfig) -> int | None:
    return loop.epochs * -(-len(batches) // loop.accumulate) if isinstance(batches, Sized) else None
