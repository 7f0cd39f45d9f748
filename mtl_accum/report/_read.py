"""Reading what a run or a sweep has written, and saying in one line what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "VERSION", "read"]

VERSION = 2  # of the JSON; 2: records hold categories, phases and more of the allocator
# By kind, the file that holds it, and what it has at least.
KINDS = {
    "run": ("report.json", {"command", "created", "device", "editions", "config", "versions"}),
    "prediction": ("report.json", {"command", "created", "device", "editions", "config", "versions"}),
    "sweep": ("sweep.json", {"created", "rows"}),
    "plan": ("plan.json", {"command", "created", "plan"}),
    "failure": ("failure.json", {"command", "reason"}),
}


def read(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file and the content of a report.

    Args:
        path: a JSON file, or the folder of a run or sweep, where the most comprehensive one is taken.

    Raises:
        ValueError: there is none; it is cut off or something else; or of a version that is not known here.
    """
    file = path
    if path.is_dir():
        names = dict.fromkeys(name for name, _ in (KINDS["sweep"], *KINDS.values()))
        file = next((path / name for name in names if (path / name).is_file()), path)
        if file == path:
            raise ValueError(f"path={path}: expected one of {', '.join(names)} in this folder, found none")
    if not file.is_file():
        raise ValueError(f"path={path}: expected the folder of a run or sweep or its JSON file, found nothing there")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: expected a report, found a file that is cut off or no JSON ({error})") from None
    if not isinstance(found, dict) or "version" not in found or "kind" not in found:
        raise ValueError(f"{file}: expected a report of mtl_accum, found JSON without its version and kind")
    if found["version"] != VERSION:
        raise ValueError(
            f"{file}: expected version {VERSION}, found {found['version']!r}; it was written by another mtl_accum"
        )
    if found["kind"] not in KINDS:
        raise ValueError(f"{file}: kind must be one of {', '.join(KINDS)}; found {found['kind']!r}")
    missing = KINDS[found["kind"]][1] - found.keys()
    if missing:
        raise ValueError(f"{file}: expected a {found['kind']} with {', '.join(sorted(missing))}, found none of that")
    return file, found
