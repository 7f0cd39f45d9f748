"""Checks of a job's arguments before it does anything: the command line builds whatever a configuration names."""

from __future__ import annotations

from collections.abc import Mapping

from mtl_accum.editions import EditionLike

__all__ = ["require_each", "require_edition", "require_editions", "require_kind"]


def require_kind(name: str, value: object, kind: type) -> None:
    """Raise ValueError, naming the argument, unless a value is of a kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, found {value!r:.200}")


def require_each(name: str, parts: Mapping[str, object], kind: type) -> None:
    """Raise ValueError, naming the knob, unless every part of a mapping is of a kind."""
    if not isinstance(parts, Mapping):
        raise ValueError(f"{name} must be a mapping from names to {kind.__name__}, found {parts!r:.200}")
    for key, part in parts.items():
        require_kind(f"{name}.{key}", part, kind)


def require_edition(name: str, edition: object) -> None:
    """Raise ValueError, naming the knob, unless a value is an edition."""
    if isinstance(edition, type) or not isinstance(edition, EditionLike):
        raise ValueError(f"{name} must be an edition such as mtl_accum.Split, found {edition!r:.200}")


def require_editions(name: str, editions: Mapping[str, EditionLike]) -> None:
    """Raise ValueError, naming the knob, unless a value maps names to editions."""
    if not isinstance(editions, Mapping):
        raise ValueError(f"{name} must be a mapping from names to editions, found {editions!r:.200}")
    for key, edition in editions.items():
        require_edition(f"{name}.{key}", edition)
