"""A schedule in writing: for the command line, for people, and for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from mtl_accum.editions import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss

__all__ = ["as_dict", "format_edition", "from_dict", "overrides"]

# By the edition, the name of its file in conf/edition.
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
    """What to write on the command line for an edition, from nothing but the default configuration."""
    return list(_overrides(edition, "edition"))


def format_edition(edition: Edition) -> str:
    """An edition as a person would write it in Python: without what is the default."""
    said = []
    for field in _fields(edition):
        value = getattr(edition, field.name)
        if _is_edition(value):
            said.append(format_edition(value))
        elif field.repr and value != field.default:
            said.append(f"{field.name}={value!r}")
    return f"{type(edition).__name__}({', '.join(said)})"


def as_dict(edition: Edition) -> dict[str, Any]:
    """An edition in the form of its configuration: plain values that JSON and a checkpoint can hold."""
    values = {field.name: getattr(edition, field.name) for field in _fields(edition)}
    written = {name: as_dict(value) if _is_edition(value) else value for name, value in values.items()}
    return {"_target_": f"mtl_accum.{type(edition).__name__}", **written}


def from_dict(written: Mapping[str, Any]) -> Edition:
    """The edition that `as_dict` wrote down.

    Raises:
        ValueError: it names no edition of this package, or a field that the edition has not.
    """
    kind = _TARGETS.get(str(written.get("_target_")))
    if kind is None:
        expected = ", ".join(_TARGETS)
        raise ValueError(f"_target_ must be one of {expected}; found {written.get('_target_')!r}")
    values = {name: value for name, value in written.items() if name != "_target_"}
    try:
        made: Edition = kind(**{name: from_dict(v) if isinstance(v, Mapping) else v for name, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{written['_target_']}: {error}") from None
    return made


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
