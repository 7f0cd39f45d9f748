"""Checkpoint files: a folder with tensors, values, and the SHA-256 of both."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mtl_accum.training.checkpoint._atomic import writing_folder
from mtl_accum.training.checkpoint._digests import digest_of_file, digest_of_values, open_regular
from mtl_accum.training.checkpoint._tensor_files import SUFFIX, Table, read_tensors, table_of, write_tensors
from mtl_accum.training.checkpoint._version_2 import VERSION_2, read_tensors_of_version_2

__all__ = ["STATE", "VERSION", "Checkpoint", "CheckpointError", "load", "read_values", "save"]

VERSION = 3  # of the format; 3: tensors in safetensors files
STATE = "state.json"  # written last: without it a folder is no checkpoint
_DIGEST_KEY = "sha256"  # in that file: digest of its other values
_FILE_NAME = re.compile(rf"[\w-][\w.-]*{re.escape(SUFFIX)}")  # a name, never a path


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message names it and the reason."""


class Checkpoint(NamedTuple):
    """A checkpoint that has been read: its folder, tensors by name on the CPU, and values as JSON holds them."""

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        path: Folder of the checkpoint; made, or replaced.
        tensors: Tensors by name, on any device.
        values: Values that JSON can hold.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full.
    """
    try:
        with writing_folder(path) as folder:
            _write_files(folder, tensors, values)
    except Exception as error:
        raise CheckpointError(f"{path}: could not be written ({_describe(error)})") from error
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; no code in it is run, and no file outside its folder is opened.

    Raises:
        CheckpointError: The checkpoint is missing, cut off, changed since it was written, or of another version.
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
        CheckpointError: The values are missing, cut off, changed since they were written, or of another version.
    """
    try:
        return _read_state(path)
    except Exception as error:
        raise _unreadable(path, error) from None


def _write_files(folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    write_tensors(folder, tensors)
    digests = {file.name: digest_of_file(file) for file in sorted(folder.iterdir())}
    state = {"version": VERSION, "files": digests, "tensors": table_of(tensors), **values}
    with (folder / STATE).open("w", encoding="utf-8") as file:
        json.dump({**state, _DIGEST_KEY: digest_of_values(state)}, file)
        file.flush()
        os.fsync(file.fileno())


def _read_files(folder: Path, digests: Mapping[str, str], table: Table) -> dict[str, Tensor]:
    for name in sorted({*digests, *(file.name for file in folder.glob(f"*{SUFFIX}"))}):
        if not _FILE_NAME.fullmatch(name) or name not in digests:
            raise ValueError(f"{name!r} is no file of this checkpoint")
        if digest_of_file(folder / name) != digests[name]:
            raise ValueError(f"{name} is cut off or was changed after it was written")
    return read_tensors(folder, table)


def _read_state(path: Path) -> dict[str, Any]:
    with open_regular(path / STATE) as file:
        values: dict[str, Any] = json.loads(file.read())
    if values["version"] not in (VERSION, VERSION_2):
        raise CheckpointError(
            f"{path}: expected a checkpoint of version {VERSION}, found {values['version']!r}; it was written by "
            "another mtl_accum, which is needed to resume from it"
        )
    if values.pop(_DIGEST_KEY, None) != digest_of_values(values):
        raise ValueError(f"{STATE} was changed after it was written")
    return values


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a checkpoint that cannot be read, in one line."""
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: expected a checkpoint, found no {Path(error.filename).name}")
    if type(error) is ValueError:
        return CheckpointError(f"{path}: {_one_line(str(error))}")
    return CheckpointError(f"{path}: cannot be read ({_describe(error)})")


def _describe(error: Exception) -> str:
    return _one_line(f"{type(error).__name__}: {error}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
