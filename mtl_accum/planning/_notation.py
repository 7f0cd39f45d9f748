"""Notations of a schedule: overrides of the command line, Python code, and plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from mtl_accum import editions
from mtl_accum.editions import Edition, EditionLike

__all__ = ["as_dict", "format_edition", "from_dict", "overrides"]

# Editions of this package with a file in conf/edition, by their `_target_` in a configuration.
_TARGETS: dict[str, type[Edition]] = {
    f"mtl_accum.{name}": kind
    for name, kind in sorted(vars(editions).items())
    if isinstance(kind, type) and issubclass(kind, Edition) and kind.config_group
}


def overrides(edition: Edition) -> list[str]:
    """Return the command-line overrides that give an edition from the default configuration.

    Returns:
        The overrides; none if the edition, or one inside it, has no file in `conf/edition`.
    """
    return list(_overrides(edition, "edition")) if _has_group(edition) else []


def format_edition(edition: EditionLike) -> str:
    """Return an edition as Python code, without the fields that have their defaults."""
    arguments = []
    for field in _fields(edition):
        value = getattr(edition, field.name)
        if isinstance(value, EditionLike):
            arguments.append(format_edition(value))
        elif field.repr and value != field.default:
            arguments.append(f"{field.name}={value!r}")
    return f"{type(edition).__name__}({', '.join(arguments)})"


def as_dict(edition: EditionLike) -> dict[str, Any]:
    """Return the configuration of an edition: plain values for JSON and checkpoints."""
    values = {field.name: getattr(edition, field.name) for field in _fields(edition)}
    plain = {name: as_dict(value) if isinstance(value, EditionLike) else value for name, value in values.items()}
    return {"_target_": _target(type(edition)), **plain}


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
    yield f"{group}={edition.config_group}"
    for field in _fields(edition):
        value = getattr(edition, field.name)
        if isinstance(value, Edition):
            yield from _overrides(value, f"{place}.{field.name}")
        elif value != field.default:
            yield f"{place}.{field.name}={str(value).lower() if isinstance(value, bool) else value}"


def _has_group(edition: Edition) -> bool:
    return bool(edition.config_group) and (edition.inner is None or _has_group(edition.inner))


def _target(kind: type) -> str:
    name = f"mtl_accum.{kind.__name__}"
    return name if _TARGETS.get(name) is kind else f"{kind.__module__}.{kind.__qualname__}"


def _fields(edition: EditionLike) -> tuple[Field[Any], ...]:
    """Return the arguments of an edition; none for a user's class that is no dataclass."""
    return fields(edition) if is_dataclass(edition) else ()
