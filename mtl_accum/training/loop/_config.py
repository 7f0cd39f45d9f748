"""How to train: the settings of the loop, each with its check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from mtl_accum._knobs import check_knob

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the network and the data.

    Args:
        epochs: how often to go through the training data; 0 does not train.
        accumulate: batches of the loader that make up one step.
        precision: "fp32", "tf32", "bf16" or "fp16"; see `Precision`.
        clip_norm: the largest norm of the gradient; None does not clip.
        on_nan: "raise" or "skip"; see `Update`.
        step_in_backward: step each parameter as soon as its gradient is complete; see `InBackward`.
        deterministic: the same operations in the same order in every run, or an error.
        lr_scaling: "none", "linear" or "sqrt"; see `scale_learning_rate`.
        base_batch_size: samples that the learning rate was chosen for.
        warmup_steps: over which the learning rate rises.
        scheduler: makes a learning rate scheduler of torch.
        validate_every: epochs between two validations; 0 never validates.
        monitor: a measure on the validation data that early stopping, the best checkpoint and
            `ReduceLROnPlateau` look at.
        monitor_mode: "min" or "max": which is better.
        patience: validations without a better one after which training ends; None goes on.

    Raises:
        ValueError: an argument is out of range.
    """

    epochs: int
    accumulate: int = 1
    precision: str = "fp32"
    clip_norm: float | None = None
    on_nan: str = "raise"
    step_in_backward: bool = False
    deterministic: bool = False
    lr_scaling: str = "none"
    base_batch_size: int | None = None
    warmup_steps: int = 0
    scheduler: Callable[[Any], Any] | None = None
    validate_every: int = 1
    monitor: str | None = None
    monitor_mode: str = "min"
    patience: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "scheduler":
                check_knob(field.name, getattr(self, field.name))
        if self.scheduler is not None and not callable(self.scheduler):
            raise ValueError(
                f"scheduler must make a scheduler of an optimizer, found {self.scheduler!r}; see _partial_"
            )
        if self.patience is not None and self.monitor is None:
            raise ValueError("patience: expected monitor, a measure to look at; found none")
        if self.lr_scaling != "none" and self.base_batch_size is None:
            raise ValueError(f"lr_scaling={self.lr_scaling}: expected base_batch_size, to scale by; found none")
        if self.monitor is not None and not self.validate_every:
            raise ValueError(f"monitor={self.monitor}: expected validate_every above 0, found 0")
        if self.step_in_backward:
            whole = {"accumulate": 1, "clip_norm": None, "on_nan": "raise"}
            wrong = [f"{name}={getattr(self, name)}" for name, value in whole.items() if getattr(self, name) != value]
            wrong += ["precision=fp16"] if self.precision == "fp16" else []
            if wrong:
                raise ValueError(f"step_in_backward: impossible with {', '.join(wrong)}, which need the whole gradient")
