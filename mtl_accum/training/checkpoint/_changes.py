"""Changes between the configuration of a checkpoint and that of the run that resumes from it."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from mtl_accum._knob_rules import DEFAULTS, flatten

__all__ = ["changes"]

# Keys that may differ: they change no step that is still to be done, or are meant to.
_FREE = {
    *("resume", "epochs", "train", "job", "path", "before", "compare", "check", "measures", "images", "checkpoint"),
    *("logger", "log_every", "edition", "budget", "device", "patience", "validate_every", "data.num_workers"),
}
_NOTHING = "nothing"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe every key whose value has changed, apart from those that may differ.

    A key that one of the configurations lacks has its default there: knobs are added in time, and a checkpoint from
    before does without.

    Args:
        before: Configuration of the checkpoint.
        now: Configuration of the run.
    """
    old, new = (dict(flatten({key: v for key, v in side.items() if key not in _FREE})) for side in (before, now))
    lines = []
    for key in sorted((old.keys() | new.keys()) - _FREE):
        one = old[key] if key in old else _default(key, before)
        other = new[key] if key in new else _default(key, now)
        if one != other:
            lines.append(f"{key} was {one!r}, is {other!r}")
    return lines


def _default(key: str, config: Mapping[str, Any]) -> Any:
    """Return the value that a key means where a configuration lacks it."""
    if key in DEFAULTS:
        return DEFAULTS[key]
    *path, argument = key.split(".")
    node: Any = config
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or "_target_" not in node:
        return _NOTHING
    try:
        parameters = inspect.signature(pkgutil.resolve_name(node["_target_"])).parameters
    except (AttributeError, ImportError, TypeError, ValueError):  # renamed, removed, or written in C
        return _NOTHING
    default = parameters[argument].default if argument in parameters else inspect.Parameter.empty
    return _NOTHING if default is inspect.Parameter.empty else default
