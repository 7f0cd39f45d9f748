"""Changes between the configuration of a checkpoint and that of the run that resumes from it."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from mtl_accum._knob_rules import DEFAULTS, flatten

__all__ = ["changes"]

# Keys that may differ: they do not change the steps that are left, or are there to change them.
_FREE = {
    *("resume", "epochs", "train", "job", "path", "before", "compare", "check", "measures", "images", "checkpoint"),
    *("logger", "log_every", "edition", "budget", "device", "patience", "validate_every", "data.num_workers"),
}
_NOTHING = "nothing"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Describe every changed key of a configuration, apart from those that may differ.

    A key that one of the configurations lacks has its default there: an older checkpoint lacks newer knobs.

    Args:
        before: Configuration of the checkpoint.
        after: Configuration of the run.
    """
    old, new = (dict(flatten({key: v for key, v in side.items() if key not in _FREE})) for side in (before, after))
    lines = []
    for key in sorted((old.keys() | new.keys()) - _FREE):
        old_value = old[key] if key in old else _default(key, before)
        new_value = new[key] if key in new else _default(key, after)
        if old_value != new_value:
            lines.append(f"{key} was {old_value!r}, is {new_value!r}")
    return lines


def _default(key: str, config: Mapping[str, Any]) -> Any:
    """Return the default of a key that a configuration lacks."""
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
