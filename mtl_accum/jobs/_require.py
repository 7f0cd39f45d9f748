"""Checks of what a job is given, before it does anything: the command line builds whatever a configuration names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mtl_accum._knobs import check_knob
from mtl_accum.data import Data
from mtl_accum.editions import EditionLike
from mtl_accum.models import MultiTaskModel

__all__ = ["require_each", "require_edition", "require_editions", "require_knobs", "require_parts"]


def require_parts(model: MultiTaskModel | None, data: Data | None) -> tuple[MultiTaskModel, Data]:
    """The model and the data of an experiment, which the command line may have left out.

    Raises:
        ValueError: one is missing, or is no such thing.
    """
    if model is None or data is None:
        raise ValueError("nothing to train: expected model and data, found none; add +experiment=two_task")
    if not isinstance(model, nn.Module) or not hasattr(model, "trunk") or not hasattr(model, "tasks"):
        raise ValueError(f"model must be a MultiTaskModel, found {model!r:.200}")
    if not all(callable(getattr(data, part, None)) for part in ("train", "test")):
        raise ValueError(f"data must have train() and test(), found {data!r:.200}")
    return model, data


def require_knobs(values: Mapping[str, object]) -> None:
    """Raise ValueError unless every knob may have its value."""
    for knob, value in values.items():
        check_knob(knob, value)


def require_each(name: str, parts: Mapping[str, object], kind: type) -> None:
    """Raise ValueError unless every part is of that kind."""
    if not isinstance(parts, Mapping):
        raise ValueError(f"{name} must be a mapping from names to {kind.__name__}, found {parts!r:.200}")
    for key, part in parts.items():
        if not isinstance(part, kind):
            raise ValueError(f"{name}.{key} must be a {kind.__name__}, found {part!r:.200}")


def require_editions(name: str, editions: Mapping[str, EditionLike]) -> None:
    """Raise ValueError unless every entry is an edition."""
    if not isinstance(editions, Mapping):
        raise ValueError(f"{name} must be a mapping from names to editions, found {editions!r:.200}")
    for key, edition in editions.items():
        require_edition(f"{name}.{key}", edition)


def require_edition(name: str, edition: object) -> None:
    """Raise ValueError, naming the knob, unless it has an edition."""
    if isinstance(edition, type) or not isinstance(edition, EditionLike):
        raise ValueError(f"{name} must be an edition such as mtl_accum.Split, found {edition!r:.200}")
