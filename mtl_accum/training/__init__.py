"""Training: the loop, its callbacks, checkpoints, and evaluation."""

from mtl_accum._renamed import renamed
from mtl_accum.training.callbacks import CheckpointConfig, Logger, MLflow, TensorBoard, WeightsAndBiases, no_logger
from mtl_accum.training.checkpoint import CheckpointError
from mtl_accum.training.evaluation import EvalMetric, Images, MaskedMean, evaluate
from mtl_accum.training.loop import Callback, NoMemoryLeftError, StoppedError, TrainConfig, Training

__all__ = [
    "Callback",
    "CheckpointConfig",
    "CheckpointError",
    "EvalMetric",
    "Images",
    "Logger",
    "MLflow",
    "MaskedMean",
    "NoMemoryLeftError",
    "StoppedError",
    "TensorBoard",
    "TrainConfig",
    "Training",
    "WeightsAndBiases",
    "evaluate",
    "no_logger",
]

__getattr__ = renamed(
    __name__,
    {
        "Auto": "mtl_accum.jobs.Auto",
        "Data": "mtl_accum.data.Data",
        "InBackward": "mtl_accum.editions.InBackward",
        "Keep": "mtl_accum.training.CheckpointConfig",
        "Loop": "mtl_accum.training.TrainConfig",
        "Measure": "mtl_accum.training.EvalMetric",
        "Run": "mtl_accum.jobs.Run",
        "Watcher": "mtl_accum.training.Callback",
        "check": "mtl_accum.jobs.flat.check",
        "evaluate_saved": "mtl_accum.jobs.flat.evaluate_saved",
        "plan": "mtl_accum.jobs.flat.plan",
        "predict": "mtl_accum.jobs.flat.predict",
        "train": "mtl_accum.jobs.flat.train",
    },
)
