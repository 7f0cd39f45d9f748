"""The knobs of a configuration, and the rule of each: the command line checks all of them before it builds anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtl_accum._validate import (
    Rule,
    boolean,
    device,
    either,
    natural,
    not_negative,
    one_of,
    positive,
    positive_int,
    size,
    text,
)

__all__ = ["KNOBS", "check_all", "check_knob"]

_CONVERSIONS = ("none", "partial", "object", "all")


def check_knob(name: str, value: Any) -> None:
    """Raise ValueError unless the knob of that name may have that value."""
    KNOBS[name](name, value)


def check_all(config: Mapping[str, Any]) -> None:
    """Check every knob of a configuration.

    Args:
        config: plain and resolved. Knobs that are absent pass: the command line has no way to leave one out.

    Raises:
        ValueError: a knob has a wrong value; names the first one.
    """
    for name, check in KNOBS.items():
        group, _, key = name.rpartition(".")
        holder = config.get(group) if group else config
        if isinstance(holder, Mapping) and key in holder:
            check(name, holder[key])


def _buildable(name: str, value: Any) -> None:
    """Raise ValueError unless value is what Hydra builds something of."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        group = name.partition(".")[0]
        raise ValueError(f"{name} must be a mapping with _target_, found {f'{value!r}':.200}; see conf/{group}, --help")
    _check_hydra_keys(name, value)


def _buildable_or_null(name: str, value: Any) -> None:
    if value is not None:
        _buildable(name, value)


def _several(name: str, value: Any) -> None:
    """Raise ValueError unless value maps names to what Hydra builds something of."""
    _mapping(name, value)
    for key, entry in value.items():
        text(f"a name in {name}", key)
        if entry is None:
            raise ValueError(f"{name}.{key} must be a mapping with _target_, found null; ~{name}.{key} leaves it out")
        _buildable(f"{name}.{key}", entry)


def _check_hydra_keys(name: str, node: Any) -> None:
    """Raise ValueError unless Hydra's own keys are as Hydra reads them, however deep."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in _HYDRA_KEYS:
                _HYDRA_KEYS[key](f"{name}.{key}", value)
            _check_hydra_keys(f"{name}.{key}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_hydra_keys(f"{name}[{index}]", value)


def _is_paths(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return bool(several) and all(isinstance(one, str) and one for one in several)


_HYDRA_KEYS = {
    "_target_": Rule("the dotted name of a class or function", lambda value: isinstance(value, str) and value != ""),
    "_partial_": boolean,
    "_recursive_": boolean,
    "_convert_": one_of(*_CONVERSIONS),
    "_args_": Rule("a list", lambda value: isinstance(value, list)),
}
_mapping = Rule("a mapping", lambda value: isinstance(value, Mapping))

KNOBS: Mapping[str, Callable[[str, Any], None]] = {
    "job": _buildable,
    "job.form": one_of("forward_backward", "loss"),
    "model": _buildable_or_null,
    "data": _buildable_or_null,
    "edition": _buildable,
    "optimizer": _buildable,
    "scheduler": _buildable_or_null,
    "logger": _buildable_or_null,
    "seed": natural,
    "device": device,
    "budget": size,
    "path": Rule("the folder of a run or sweep, or several as [one,two]", _is_paths).or_null(),
    "before": Rule("the folder of a run or sweep", text.met).or_null(),
    "train": boolean,
    "epochs": natural,
    "resume": Rule("a run's folder or auto", text.met).or_null(),
    "accumulate": positive_int,
    "lr_scaling": one_of("none", "linear", "sqrt"),
    "base_batch_size": positive_int.or_null(),
    "warmup_steps": natural,
    "precision": one_of("fp32", "tf32", "bf16", "fp16"),
    "clip_norm": positive.or_null(),
    "on_nan": one_of("raise", "skip"),
    "step_in_backward": boolean,
    "deterministic": boolean,
    "validate_every": natural,
    "monitor": Rule("the name of a measure", text.met).or_null(),
    "monitor_mode": either("min", "max"),
    "patience": positive_int.or_null(),
    "log_every": positive_int,
    "checkpoint": _mapping,
    "checkpoint.every_steps": positive_int.or_null(),
    "checkpoint.every_seconds": not_negative.or_null(),
    "checkpoint.keep": positive_int,
    "checkpoint.on_error": either("warn", "raise"),
    "compare": _mapping,
    "compare.editions": _several,
    "compare.steps": positive_int,
    "compare.snapshots": boolean,
    "check": _mapping,
    "check.editions": _several,
    "measures": _several,
    "images": _several,
}
