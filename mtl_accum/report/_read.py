"""Reading what a run or a sweep has written, and saying in one line what is wrong with it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = ["KINDS", "VERSION", "read"]

VERSION = 3  # of the JSON; 2: records hold categories, phases and more of the allocator; 3: images, rows say where
# The file that holds each kind; what it has stands in `schema.json`.
KINDS = {
    "run": "report.json",
    "prediction": "report.json",
    "sweep": "sweep.json",
    "plan": "plan.json",
    "failure": "failure.json",
}


def read(path: Path, name: str = "path") -> tuple[Path, dict[str, Any]]:
    """The file and the content of a report.

    Args:
        path: a JSON file, or the folder of a run or sweep, where the most comprehensive one is taken.
        name: the knob that it comes from.

    Raises:
        ValueError: there is none; it is cut off or something else; or of a version that is not known here.
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
    wrong = _wrong(found)
    if wrong:
        raise ValueError(f"{file}: expected a {found['kind']} as schema.json has it, found {wrong}")
    return file, found


def _wrong(found: dict[str, Any]) -> str:
    """What does not fit the schema, with its place; nothing where all does."""
    from jsonschema.exceptions import best_match

    error = best_match(_schema(found["kind"]).iter_errors(found))
    if error is None:
        return ""
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{place}: {error.message:.200}" if place else f"{error.message:.200}"


@lru_cache
def _schema(kind: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    schema = json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})
