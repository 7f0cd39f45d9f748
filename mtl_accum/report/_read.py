"""Reading and validation of reports: JSON files of runs, predictions, sweeps, plans and failures."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = ["KINDS", "VERSION", "read"]

VERSION = 3  # of the JSON; 2: records hold categories, phases and more of the allocator; 3: images, devices of rows
# File of each kind; `schema.json` has their contents.
KINDS = {
    "run": "report.json",
    "prediction": "report.json",
    "sweep": "sweep.json",
    "plan": "plan.json",
    "failure": "failure.json",
}


def read(path: Path, name: str = "path") -> tuple[Path, dict[str, Any]]:
    """Read a report.

    Args:
        path: JSON file; or folder of a run or sweep, whose most comprehensive report is read.
        name: Name of the setting that the path comes from, for messages.

    Returns:
        The file, and its content.

    Raises:
        ValueError: There is no report; the file is truncated, or no report; or its version is unknown.
    """
    file = path
    if path.is_dir():
        names = dict.fromkeys((KINDS["sweep"], *KINDS.values()))
        file = next((path / name for name in names if (path / name).is_file()), path)
        if file == path:
            raise ValueError(f"{name}={path}: expected one of {', '.join(names)} in this folder, found none")
    if not file.is_file():
        raise ValueError(f"{name}={path}: expected the folder of a run or sweep or its JSON file, found nothing there")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: expected a report, found a file that is cut off or no JSON ({error})") from None
    if not isinstance(report, dict) or "version" not in report or "kind" not in report:
        raise ValueError(f"{file}: expected a report of mtl_accum, found JSON without its version and kind")
    if report["version"] != VERSION:
        raise ValueError(
            f"{file}: expected version {VERSION}, found {report['version']!r}; it was written by another mtl_accum"
        )
    if report["kind"] not in KINDS:
        raise ValueError(f"{file}: kind must be one of {', '.join(KINDS)}; found {report['kind']!r}")
    error_text = _schema_error(report)
    if error_text:
        raise ValueError(f"{file}: expected a {report['kind']} as schema.json has it, found {error_text}")
    return file, report


def _schema_error(report: dict[str, Any]) -> str:
    """Return the first deviation from the schema with its place; empty if there is none."""
    from jsonschema.exceptions import best_match

    error = best_match(_schema(report["kind"]).iter_errors(report))
    if error is None:
        return ""
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{place}: {error.message:.200}" if place else f"{error.message:.200}"


@lru_cache
def _schema(kind: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    schema = json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})
