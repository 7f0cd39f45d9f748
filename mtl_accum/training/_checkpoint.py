"""Checkpoints in a folder: each is whole or not there, the last few and the best one are kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from mtl_accum._validate import positive_int
from mtl_accum.training._safe_reader import SafeReader

__all__ = [
    "FOLDER",
    "VERSION",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "all_of",
    "load",
    "newest",
    "of_path",
    "read_values",
    "save",
]

VERSION = 2  # of what a checkpoint holds
FOLDER = "checkpoints"  # in a run's folder
_LOG = logging.getLogger(__name__)
_STATE = "state.json"  # written last: without it a folder is no checkpoint
_OWN = "sha256"  # of the rest of that file
_NAME = "step-"


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message says which one and why."""


class Checkpoint(NamedTuple):
    """What one holds: its folder, the tensors by name, on the CPU, and values as JSON has them."""

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: made with the first one; a folder `step-...` each.
        keep: how many of the newest stay; the best one stays on top of that.
        anew: those that are there are of an earlier run; the first one that is written replaces them.

    Raises:
        ValueError: keep is less than 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2, anew: bool = False) -> None:
        positive_int("checkpoint.keep", keep)
        self.folder, self._keep = folder, keep
        self._tidy = False
        there = all_of(folder)
        self._foreign = set(there) if anew else set()
        self._best = next((path for path in reversed(there) if _is_best(path)), None) if not anew else None

    def write(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, best: bool = False) -> Path:
        """Write one and remove those that are too many, and those of later steps: the run has gone back before them.

        Args:
            step: optimizer steps done.
            tensors: by name, on any device.
            values: what JSON can hold.
            best: it is the best one so far.

        Raises:
            CheckpointError: it could not be written; those that were there still are.
        """
        path = self.folder / f"{_NAME}{step:010d}"
        best = best or path == self._best
        written = save(path, tensors, {**values, "best": best})
        if best or (self._best is not None and self._best.name > path.name):  # gone back before it
            self._best = written if best else None
        if not self._tidy:
            for left in (*self.folder.glob(f".writing-{_NAME}*"), *self.folder.glob(f".before-{_NAME}*")):
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
            self._tidy = True
        self._foreign.discard(written)
        so_far = [path for path in all_of(self.folder) if path.name <= written.name and path not in self._foreign]
        kept = {*so_far[-self._keep :], self._best}
        for path in all_of(self.folder):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        return written


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write a checkpoint aside and rename it: a reader sees all of it or nothing.

    Raises:
        CheckpointError: the folder cannot be written, or is full.
    """
    aside = path.parent / f".writing-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        with _of_one_process():
            dcp_save(dict(tensors), checkpoint_id=aside, no_dist=not _distributed())
        digests = {file.name: _digest(file) for file in sorted(aside.iterdir())}
        written = {"version": VERSION, "files": digests, **values}
        with (aside / _STATE).open("w", encoding="utf-8") as file:
            json.dump({**written, _OWN: _digest_of(written)}, file)
            file.flush()
            os.fsync(file.fileno())
        before = path.parent / f".before-{path.name}"  # of this step: it goes when the new one is there
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
            os.replace(path, before)
        try:
            os.replace(aside, path)
        except OSError:
            if before.exists():
                before.rename(path)
            raise
        shutil.rmtree(before, ignore_errors=True)
        _sync(path.parent)
    except (Exception, CheckpointException) as error:  # CheckpointException is no Exception
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{path}: could not be written ({_reason(error)})") from error
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing that it contains is run.

    Raises:
        CheckpointError: it is not there, cut off, changed since it was written, or of an unknown version.
    """
    try:
        values = _read_state(path)
        for name, digest in values["files"].items():
            if _digest(path / name) != digest:
                raise CheckpointError(f"{path}: {name} is cut off or was changed after it was written")
        reader = SafeReader(path)
        known: dict[str, TensorStorageMetadata] = reader.read_metadata().state_dict_metadata  # type: ignore[assignment]
        tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in known.items()}
        with _of_one_process():
            dcp_load(tensors, storage_reader=reader, no_dist=not _distributed())
    except (Exception, CheckpointException) as error:
        raise _unreadable(path, error) from None
    return Checkpoint(path, tensors, values)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a checkpoint alone, its tensors unread.

    Raises:
        CheckpointError: they are not there, cut off, changed since they were written, or of an unknown version.
    """
    try:
        return _read_state(path)
    except Exception as error:
        raise _unreadable(path, error) from None


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a folder that can be read; says in a line which ones cannot.

    Raises:
        CheckpointError: there are some, and none of them can be read.
    """
    found = all_of(folder)
    for path in reversed(found):
        try:
            return load(path)
        except CheckpointError as error:
            _LOG.warning("%s; the one before it is used", error)
            reason = error
    if found:
        raise CheckpointError(f"{folder}: none of its {len(found)} checkpoints can be read; of the oldest: {reason}")
    return None


def of_path(path: Path) -> Checkpoint | None:
    """What a path stands for: a checkpoint itself, or the newest one of a run's folder or of its `checkpoints`.

    Raises:
        CheckpointError: there are some, and none of them can be read.
    """
    if (path / _STATE).is_file():
        return load(path)
    return newest(path if path.name == FOLDER else path / FOLDER)


def all_of(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob(f"{_NAME}*") if (path / _STATE).is_file())


def _is_best(path: Path) -> bool:
    try:
        return bool(read_values(path)["best"])
    except CheckpointError:
        return False


def _read_state(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if values["version"] != VERSION:
        raise CheckpointError(f"{path}: expected a checkpoint of version {VERSION}, found {values['version']!r}")
    if values.pop(_OWN, None) != _digest_of(values):
        raise CheckpointError(f"{path}: {_STATE} was changed after it was written")
    return values


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: expected a checkpoint, found no {Path(error.filename).name}")
    return CheckpointError(f"{path}: cannot be read ({_reason(error)})")


@contextmanager
def _of_one_process() -> Iterator[None]:
    """Without DCP's warning that there is one process only, where that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)
        yield


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Have the folder's entries on the disk."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: BaseException) -> str:
    """One line: of an error in DCP's workers, what was behind it."""
    while isinstance(error, CheckpointException) and error.failures:
        inner, _ = next(iter(error.failures.values()))
        error = inner
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
