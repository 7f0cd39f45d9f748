"""The training loop: batches, steps, updates, precision, and recovery from out-of-memory."""

from mtl_accum._train_settings import TrainConfig
from mtl_accum.training.loop._device import describe_device, lock_device, resolve_device, set_deterministic, to_device
from mtl_accum.training.loop._learning_rate import scale_learning_rate
from mtl_accum.training.loop._no_memory import NoMemoryLeftError
from mtl_accum.training.loop._signals import StoppedError
from mtl_accum.training.loop._trainer import Callback, Training

__all__ = [
    "Callback",
    "NoMemoryLeftError",
    "StoppedError",
    "TrainConfig",
    "Training",
    "describe_device",
    "lock_device",
    "resolve_device",
    "scale_learning_rate",
    "set_deterministic",
    "to_device",
]
