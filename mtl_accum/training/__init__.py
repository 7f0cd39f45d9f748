"""The training loop and the jobs of the command line."""

from mtl_accum.data._protocol import Data
from mtl_accum.training._check import check
from mtl_accum.training._checkpoint import CheckpointError
from mtl_accum.training._evaluate import Measure, evaluate
from mtl_accum.training._evaluate_saved import evaluate_saved
from mtl_accum.training._experiment import Run
from mtl_accum.training._fit import Training, Watcher
from mtl_accum.training._images import Images
from mtl_accum.training._in_backward import InBackward
from mtl_accum.training._keep import Keep
from mtl_accum.training._loggers import Logger, MLflow, TensorBoard, WeightsAndBiases, no_logger
from mtl_accum.training._loop import Loop
from mtl_accum.training._masked_mean import MaskedMean
from mtl_accum.training._plan import Auto, plan
from mtl_accum.training._predict import predict
from mtl_accum.training._stop import StoppedError
from mtl_accum.training._train import train
from mtl_accum.training._window import NoMemoryLeftError

__all__ = [
    "Auto",
    "CheckpointError",
    "Data",
    "Images",
    "InBackward",
    "Keep",
    "Logger",
    "Loop",
    "MLflow",
    "MaskedMean",
    "Measure",
    "NoMemoryLeftError",
    "Run",
    "StoppedError",
    "TensorBoard",
    "Training",
    "Watcher",
    "WeightsAndBiases",
    "check",
    "evaluate",
    "evaluate_saved",
    "no_logger",
    "plan",
    "predict",
    "train",
]
