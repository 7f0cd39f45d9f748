"""Lock on a run's folder for one process; it ends with the process, even with one that is killed."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["NAME", "only_process_in"]

NAME = ".lock"  # in the folder; it stays there, because a file that is removed can be locked twice
_LOG = logging.getLogger(__name__)
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder inside the block.

    A lock of `fcntl.lockf` belongs to this process alone. Its forked workers, which may outlive it by some
    seconds, do not hold the lock.

    Args:
        folder: Existing folder.

    Raises:
        ValueError: Another process holds the lock.
        OSError: The folder cannot be written.
    """
    file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(file):
            holder = os.read(file, 200).decode(errors="replace").strip() or "unknown"
            raise ValueError(
                f"{folder}: another process is running in this folder ({holder}); wait for its end, or choose another "
                "folder with hydra.run.dir=..."
            )
        with suppress(OSError):  # a full disk: the lock holds without this line
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(file)


def _lock(descriptor: int) -> bool:
    """Take the lock, and return whether that worked; a system without locks counts as success."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        _LOG.warning("this file system has no locks (%s): a second run in this folder would not be noticed", error)
    return True
