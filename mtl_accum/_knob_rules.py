"""Knobs of a configuration, and the rule of each: the command line checks them all before it builds anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl_accum._train_settings import Check, CheckpointConfig, TrainConfig, checks_of, defaults_of
from mtl_accum._validate import Rule, boolean, device, natural, one_of, positive_int, size, text

__all__ = ["DEFAULTS", "KNOBS", "check_all", "check_knob", "flatten"]

_CONVERSIONS = ("none", "partial", "object", "all")


def check_knob(name: str, value: Any) -> None:
    """Raise ValueError unless the knob of that name may have that value."""
    KNOBS[name](name, value)


def check_all(config: Mapping[str, Any]) -> None:
    """Check every knob of a configuration.

    Args:
        config: Plain, resolved values. Absent knobs pass: a configuration of the command line lacks none.

    Raises:
        ValueError: A knob has a wrong value; the message names the first one.
    """
    for name, check in KNOBS.items():
        group, _, key = name.rpartition(".")
        holder = config.get(group) if group else config
        if isinstance(holder, Mapping) and key in holder:
            check(name, holder[key])


def flatten(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a nested configuration with its dotted name; an empty mapping in it is a value.

    Args:
        config: Configuration, or a part of it.
        place: Dotted name of that part; empty for the whole.
    """
    for key, value in config.items():
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
        else:
            yield name, value


def _buildable(name: str, value: Any) -> None:
    """Raise ValueError unless Hydra can build an object of a value."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        group = name.partition(".")[0]
        raise ValueError(f"{name} must be a mapping with _target_, found {f'{value!r}':.200}; see conf/{group}, --help")
    _check_hydra_keys(name, value)


def _buildable_or_null(name: str, value: Any) -> None:
    if value is not None:
        _buildable(name, value)


def _several(name: str, value: Any) -> None:
    """Raise ValueError unless a value maps names to what Hydra can build an object of."""
    _mapping(name, value)
    for key, entry in value.items():
        text(f"a name in {name}", key)
        if entry is None:
            raise ValueError(f"{name}.{key} must be a mapping with _target_, found null; ~{name}.{key} leaves it out")
        _buildable(f"{name}.{key}", entry)


def _check_hydra_keys(name: str, node: Any) -> None:
    """Raise ValueError unless Hydra's own keys have values that Hydra can read, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in _HYDRA_KEYS:
                _HYDRA_KEYS[key](f"{name}.{key}", value)
            _check_hydra_keys(f"{name}.{key}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_hydra_keys(f"{name}[{index}]", value)


def _is_paths(value: Any) -> bool:
    paths = value if isinstance(value, list) else [value]
    return bool(paths) and all(isinstance(path, str) and path for path in paths)


_HYDRA_KEYS = {
    "_target_": Rule("the dotted name of a class or function", lambda value: isinstance(value, str) and value != ""),
    "_partial_": boolean,
    "_recursive_": boolean,
    "_convert_": one_of(*_CONVERSIONS),
    "_args_": Rule("a list", lambda value: isinstance(value, list)),
}
_mapping = Rule("a mapping", lambda value: isinstance(value, Mapping))

KNOBS: Mapping[str, Check] = {
    "job": _buildable,
    "job.experiment": _buildable,
    "job.form": one_of("forward_backward", "loss"),
    "model": _buildable_or_null,
    "data": _buildable_or_null,
    "edition": _buildable,
    "optimizer": _buildable,
    "logger": _buildable_or_null,
    "seed": natural,
    "device": device,
    "budget": size,
    "path": Rule("the folder of a run or sweep, or several as [one,two]", _is_paths).or_null(),
    "before": Rule("the folder of a run or sweep", text.met).or_null(),
    "train": boolean,
    "resume": Rule("a run's folder or auto", text.met).or_null(),
    **checks_of(TrainConfig),
    "scheduler": _buildable_or_null,  # in a configuration; the setting itself is what Hydra builds of it
    "log_every": positive_int,
    "checkpoint": _mapping,
    **checks_of(CheckpointConfig, "checkpoint."),
    "compare": _mapping,
    "compare.editions": _several,
    "compare.steps": positive_int,
    "compare.snapshots": boolean,
    "check": _mapping,
    "check.editions": _several,
    "measures": _several,
    "images": _several,
}

# Of the knobs that the training loop reads: what a configuration without them means.
DEFAULTS: Mapping[str, Any] = {**defaults_of(TrainConfig), **defaults_of(CheckpointConfig, "checkpoint.")}
