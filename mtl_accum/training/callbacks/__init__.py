"""Callbacks of the training loop: checkpoints, validation, metrics and loggers, progress."""

from mtl_accum._train_settings import CheckpointConfig
from mtl_accum.training.callbacks._checkpoints import CheckpointCallback
from mtl_accum.training.callbacks._loggers import (
    FaultTolerantLogger,
    Logger,
    MakeLogger,
    MLflow,
    TensorBoard,
    WeightsAndBiases,
    no_logger,
)
from mtl_accum.training.callbacks._metrics import MetricsCallback, training_metrics
from mtl_accum.training.callbacks._progress import ProgressDisplay
from mtl_accum.training.callbacks._validation import ValidationCallback

__all__ = [
    "CheckpointCallback",
    "CheckpointConfig",
    "FaultTolerantLogger",
    "Logger",
    "MLflow",
    "MakeLogger",
    "MetricsCallback",
    "ProgressDisplay",
    "TensorBoard",
    "ValidationCallback",
    "WeightsAndBiases",
    "no_logger",
    "training_metrics",
]
