"""Names that have moved: the old one keeps working, with a warning that names the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["renamed"]


def renamed(package: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__`, which resolves its old names (PEP 562).

    Args:
        package: Name of the package that had the old names.
        new_names: Full new name by old name.

    Returns:
        A function of a name that imports the object behind it, with a FutureWarning, which is shown on the command
        line; it raises AttributeError for a name that is not an old one.
    """

    def resolve(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, new_name = new_names[name].rpartition(".")
        warnings.warn(f"{package}.{name} is now {new_names[name]}", FutureWarning, stacklevel=2)
        return getattr(import_module(home), new_name)

    return resolve
