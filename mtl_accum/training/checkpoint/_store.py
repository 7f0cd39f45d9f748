"""One checkpoint: a folder that is whole or not there, with tensors, values and the digests of both."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mtl_accum.training.checkpoint._digests import digest_of_file, digest_of_values, open_regular
from mtl_accum.training.checkpoint._tensor_files import SUFFIX, Table, read_tensors, table_of, write_tensors
from mtl_accum.training.checkpoint._version_2 import VERSION_2, read_tensors_of_version_2

__all__ = ["STATE", "VERSION", "Checkpoint", "CheckpointError", "load", "read_values", "save"]

VERSION = 3  # of what a checkpoint holds; 3: tensors in safetensors files
STATE = "state.json"  # written last: without it a folder is no checkpoint
_OWN = "sha256"  # of the rest of that file
_FILE = re.compile(rf"[\w-][\w.-]*{re.escape(SUFFIX)}")  # a name, never a path


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message says which one and why."""


class Checkpoint(NamedTuple):
    """What one holds: its folder, the tensors by name, on the CPU, and values as JSON has them."""

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write a checkpoint aside and rename it: a reader sees all of it or nothing.

    Args:
        path: Its folder, which is made, or replaced.
        tensors: By name, on any device.
        values: What JSON can hold.

    Raises:
        CheckpointError: The folder cannot be written, or is full.
    """
    aside = path.parent / f".writing-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _write(aside, tensors, values)
        _move_in(aside, path)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, Exception):
            raise CheckpointError(f"{path}: could not be written ({_reason(error)})") from error
        raise
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing that it contains is run, and no file outside of its folder is opened.

    Raises:
        CheckpointError: It is not there, cut off, changed since it was written, or of another version.
    """
    try:
        values = _read_state(path)
        if values["version"] == VERSION_2:
            tensors = read_tensors_of_version_2(path, values["files"])
        else:
            tensors = _read_files(path, values["files"], values["tensors"])
    except Exception as error:
        raise _unreadable(path, error) from None
    return Checkpoint(path, tensors, values)


def read_values(path: Path) -> dict[str, Any]:
    """Read the values of a checkpoint without its tensors.

    Raises:
        CheckpointError: They are not there, cut off, changed since they were written, or of another version.
    """
    try:
        return _read_state(path)
    except Exception as error:
        raise _unreadable(path, error) from None


def _read_files(folder: Path, digests: Mapping[str, str], table: Table) -> dict[str, Tensor]:
    for name in sorted({*digests, *(file.name for file in folder.glob(f"*{SUFFIX}"))}):
        if not _FILE.fullmatch(name) or name not in digests:
            raise ValueError(f"{name!r} is no file of this checkpoint")
        if digest_of_file(folder / name) != digests[name]:
            raise ValueError(f"{name} is cut off or was changed after it was written")
    return read_tensors(folder, table)


def _write(folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    write_tensors(folder, tensors)
    digests = {file.name: digest_of_file(file) for file in sorted(folder.iterdir())}
    written = {"version": VERSION, "files": digests, "tensors": table_of(tensors), **values}
    with (folder / STATE).open("w", encoding="utf-8") as file:
        json.dump({**written, _OWN: digest_of_values(written)}, file)
        file.flush()
        os.fsync(file.fileno())


def _move_in(aside: Path, path: Path) -> None:
    """Rename the new checkpoint to its place; one of the same step goes when the new one is there."""
    before = path.parent / f".before-{path.name}"
    if path.exists():
        shutil.rmtree(before, ignore_errors=True)
        os.replace(path, before)
    try:
        os.replace(aside, path)
    except BaseException:
        if before.exists() and not path.exists():
            before.rename(path)
        raise
    shutil.rmtree(before, ignore_errors=True)
    _sync(path.parent)


def _read_state(path: Path) -> dict[str, Any]:
    with open_regular(path / STATE) as file:
        values: dict[str, Any] = json.loads(file.read())
    if values["version"] not in (VERSION, VERSION_2):
        raise CheckpointError(
            f"{path}: expected a checkpoint of version {VERSION}, found {values['version']!r}; it was written by "
            "another mtl_accum, which is needed to go on from it"
        )
    if values.pop(_OWN, None) != digest_of_values(values):
        raise ValueError(f"{STATE} was changed after it was written")
    return values


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: expected a checkpoint, found no {Path(error.filename).name}")
    if type(error) is ValueError:
        return CheckpointError(f"{path}: {_one_line(str(error))}")
    return CheckpointError(f"{path}: cannot be read ({_reason(error)})")


def _sync(folder: Path) -> None:
    """Flush the folder's entries to the disk."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    return _one_line(f"{type(error).__name__}: {error}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
