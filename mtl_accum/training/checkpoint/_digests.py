"""SHA-256 digests of regular files and of values."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["digest_of_file", "digest_of_values", "open_regular"]

# A link may lead out of the folder; opening a fifo would wait for a writer.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        ValueError: The path is a link, a fifo, a device or a folder.
        OSError: The file cannot be opened.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link, expected a file")
    descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is no file")
    return os.fdopen(descriptor, "rb")


def digest_of_file(path: Path) -> str:
    """Compute the SHA-256 of a regular file.

    Raises:
        ValueError: The path is a link, a fifo, a device or a folder.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_values(values: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of values that JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
