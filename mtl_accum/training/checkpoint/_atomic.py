"""Atomic writes of folders: a reader finds a whole folder or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["remove_leftovers", "writing_folder"]

_NEW, _OLD = ".writing-", ".before-"  # prefixes of a folder's name while it is written, and while it is replaced


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside a path, and rename it to the path at the end of the block.

    After an exception the folder is deleted, and a folder that was at the path stays.

    Args:
        path: Path of the folder. Parents are made; a folder there is replaced.

    Yields:
        The folder to write the files into.

    Raises:
        OSError: The folder cannot be made or renamed.
    """
    aside = path.parent / f"{_NEW}{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        _rename(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Delete what killed processes have left of unfinished writes.

    Args:
        folder: Parent of the written folders.
        prefix: Beginning of their names.
    """
    for leftover in (*folder.glob(f"{_NEW}{prefix}*"), *folder.glob(f"{_OLD}{prefix}*")):
        shutil.rmtree(leftover, ignore_errors=True)


def _rename(aside: Path, path: Path) -> None:
    """Rename a new folder to its path; an old one is deleted only once the new one is in place."""
    old = path.parent / f"{_OLD}{path.name}"
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
    try:
        os.replace(aside, path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
