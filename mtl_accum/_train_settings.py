"""Settings of the training loop and of its checkpoints: default, rule and help line of each."""
# ruff: noqa: RUF009 (`_knob` returns a dataclass field)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mtl_accum._validate import Rule, boolean, either, natural, not_negative, one_of, positive, positive_int, text

__all__ = ["Check", "CheckpointConfig", "TrainConfig", "checks_of", "defaults_of", "help_of"]

Check = Callable[[str, Any], None]  # raises ValueError unless the setting of that name may have that value


def _knob(default: Any, check: Check, line: str) -> Any:
    """Make a dataclass field of a setting that is a knob of the command line.

    Args:
        default: Value of the field, and of the knob in `conf/config.yaml`.
        check: Rule of the value.
        line: Help, and the comment of the knob in `conf/config.yaml`.
    """
    return field(default=default, metadata={"check": check, "help": line})


def _make_scheduler(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise ValueError(f"{name} must make a scheduler of an optimizer, found {value!r:.200}; see _partial_")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop, for any network and any data; each field is a knob of the command line.

    Raises:
        ValueError: A value is out of range, or two values exclude each other.
    """

    epochs: int = _knob(40, natural, "number of passes over the training data; 0 only measures")
    accumulate: int = _knob(1, positive_int, "number of batches of the loader in one optimizer step")
    precision: str = _knob(
        "fp32", one_of("fp32", "tf32", "bf16", "fp16"), "number format of a step: fp32, tf32, bf16, fp16"
    )
    clip_norm: float | None = _knob(None, positive.or_null(), "largest norm of the gradient; null does not clip")
    on_nan: str = _knob(
        "raise", one_of("raise", "skip"), "raise ends training at a NaN; skip leaves the step out, and counts it"
    )
    step_in_backward: bool = _knob(
        False, boolean, "whether to update a parameter once its gradient is complete: less memory (split or summed)"
    )
    deterministic: bool = _knob(False, boolean, "whether every run must give the same bits, or end with an error")
    lr_scaling: str = _knob(
        "none", one_of("none", "linear", "sqrt"), "rule for the learning rate of larger steps: none, linear, sqrt"
    )
    base_batch_size: int | None = _knob(
        None, positive_int.or_null(), "number of samples in a step that the learning rate was chosen for"
    )
    warmup_steps: int = _knob(0, natural, "number of steps over which the learning rate rises to its value")
    scheduler: Callable[[Any], Any] | None = _knob(
        None, _make_scheduler, "a group: how the learning rate changes after every step (plateau: every validation)"
    )
    validate_every: int = _knob(
        1, natural, "number of epochs between validations, where there is validation data; 0 never validates"
    )
    monitor: str | None = _knob(
        None,
        Rule("the name of a measure", text.met).or_null(),
        "name of the measure for early stopping, the best checkpoint and scheduler=plateau",
    )
    monitor_mode: str = _knob("min", either("min", "max"), "min or max: whether smaller or larger values are better")
    patience: int | None = _knob(
        None, positive_int.or_null(), "number of validations without a better value before training ends"
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.patience is not None and self.monitor is None:
            raise ValueError("patience: expected monitor, a measure to look at; found none")
        if self.lr_scaling != "none" and self.base_batch_size is None:
            raise ValueError(f"lr_scaling={self.lr_scaling}: expected base_batch_size, to scale by; found none")
        if self.monitor is not None and not self.validate_every:
            raise ValueError(f"monitor={self.monitor}: expected validate_every above 0, found 0")
        if self.step_in_backward:
            self._require_a_step_by_parameter()

    def _require_a_step_by_parameter(self) -> None:
        settings = {"accumulate": 1, "clip_norm": None, "on_nan": "raise"}
        wrong = [f"{name}={getattr(self, name)}" for name, value in settings.items() if getattr(self, name) != value]
        wrong += ["precision=fp16"] if self.precision == "fp16" else []
        if wrong:
            raise ValueError(f"step_in_backward: impossible with {', '.join(wrong)}, which need the whole gradient")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written, and how many are kept; each field is a knob `checkpoint.*` of the command line.

    Raises:
        ValueError: A value is out of range.
    """

    every_steps: int | None = _knob(
        None, positive_int.or_null(), "number of steps between two checkpoints; null does not count steps"
    )
    every_seconds: float | None = _knob(
        300.0,
        not_negative.or_null(),
        "number of seconds between two; null ignores time; the last step is always saved",
    )
    keep: int = _knob(2, positive_int, "number of the newest checkpoints to keep, besides the best one")
    on_error: str = _knob(
        "warn", either("warn", "raise"), "when one cannot be written: warn continues training, raise ends it"
    )

    def __post_init__(self) -> None:
        _check_fields(self, "checkpoint.")


def checks_of(config: type[TrainConfig | CheckpointConfig], prefix: str = "") -> dict[str, Check]:
    """Return the rule of every setting by the name of its knob.

    Args:
        config: Class of the settings.
        prefix: Beginning of the knobs' names.
    """
    return {f"{prefix}{setting.name}": setting.metadata["check"] for setting in fields(config)}


def defaults_of(config: type[TrainConfig | CheckpointConfig], prefix: str = "") -> Mapping[str, Any]:
    """Return the default of every setting by the name of its knob; arguments as of `checks_of`."""
    return {f"{prefix}{setting.name}": setting.default for setting in fields(config)}


def help_of(config: type[TrainConfig | CheckpointConfig], prefix: str = "") -> Mapping[str, str]:
    """Return the help line of every setting by the name of its knob; arguments as of `checks_of`."""
    return {f"{prefix}{setting.name}": setting.metadata["help"] for setting in fields(config)}


def _check_fields(settings: TrainConfig | CheckpointConfig, prefix: str = "") -> None:
    for name, check in checks_of(type(settings), prefix).items():
        check(name, getattr(settings, name.removeprefix(prefix)))
