"""Names of a package that are imported on their first use (PEP 562), so its import loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__`.

    Args:
        package: Name of the package.
        homes: Module that each public name is imported from, relative to the package.

    Returns:
        A function of a name that imports the object behind it; it raises AttributeError for any other name.
    """

    def resolve(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return resolve
