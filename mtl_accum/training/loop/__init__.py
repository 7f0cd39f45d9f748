"""The training loop: steps, updates, precision, recovery."""

from mtl_accum._train_settings import TrainConfig
from mtl_accum.training.loop._device import alone_on, describe, deterministic, resolve, to_device
from mtl_accum.training.loop._learning_rate import scale_learning_rate
from mtl_accum.training.loop._signals import StoppedError
from mtl_accum.training.loop._step import NoMemoryLeftError
from mtl_accum.training.loop._trainer import Callback, Training

__all__ = [
    "Callback",
    "NoMemoryLeftError",
    "StoppedError",
    "TrainConfig",
    "Training",
    "alone_on",
    "describe",
    "deterministic",
    "resolve",
    "scale_learning_rate",
    "to_device",
]
