"""Notations of a schedule: overrides of the command line, Python code, and plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from mtl_accum.editions import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss

__all__ = ["as_dict", "format_edition", "from_dict", "overrides"]

# Name of each edition's file in conf/edition.
_GROUPS: dict[type, str] = {
    SummedLoss: "summed",
    PerTask: "per_task",
    Split: "split",
    Cached: "cached",
    Accumulated: "accumulated",
    Checkpointed: "checkpointed",
    Offloaded: "offloaded",
    AsLoss: "as_loss",
}
_TARGETS = {f"mtl_accum.{kind.__name__}": kind for kind in _GROUPS}


def overrides(edition: Edition) -> list[str]:
    """Return the command-line overrides that give an edition from the default configuration."""
    return list(_overrides(edition, "edition"))


def format_edition(edition: Edition) -> str:
    """Return an edition as Python code, without the fields that have their defaults."""
    arguments = []
    for field in _fields(edition):
        value = getattr(edition, field.name)
        if _is_edition(value):
            arguments.append(format_edition(value))
        elif field.repr and value != field.default:
            arguments.append(f"{field.name}={value!r}")
    return f"{type(edition).__name__}({', '.join(arguments)})"


def as_dict(edition: Edition) -> dict[str, Any]:
    """Return the configuration of an edition: plain values for JSON and checkpoints."""
    values = {field.name: getattr(edition, field.name) for field in _fields(edition)}
    plain = {name: as_dict(value) if _is_edition(value) else value for name, value in values.items()}
    return {"_target_": f"mtl_accum.{type(edition).__name__}", **plain}


def from_dict(config: Mapping[str, Any]) -> Edition:
    """Return the edition of a configuration that `as_dict` returned.

    Raises:
        ValueError: `_target_` is no edition of this package, or the edition has no such field.
    """
    kind = _TARGETS.get(str(config.get("_target_")))
    if kind is None:
        expected = ", ".join(_TARGETS)
        raise ValueError(f"_target_ must be one of {expected}; found {config.get('_target_')!r}")
    values = {name: value for name, value in config.items() if name != "_target_"}
    try:
        edition: Edition = kind(**{name: from_dict(v) if isinstance(v, Mapping) else v for name, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{config['_target_']}: {error}") from None
    return edition


def _overrides(edition: Edition, place: str) -> Iterator[str]:
    group = "edition" if place == "edition" else f"edition@{place}"
    yield f"{group}={_GROUPS[type(edition)]}"
    for field in _fields(edition):
        value = getattr(edition, field.name)
        if _is_edition(value):
            yield from _overrides(value, f"{place}.{field.name}")
        elif value != field.default:
            yield f"{place}.{field.name}={str(value).lower() if isinstance(value, bool) else value}"


def _fields(edition: Edition) -> tuple[Field[Any], ...]:
    return fields(edition)  # type: ignore[arg-type]


def _is_edition(value: Any) -> bool:
    return hasattr(value, "forward_backward")
