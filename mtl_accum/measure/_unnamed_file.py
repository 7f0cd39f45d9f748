"""Transfer of an object to another process through an unnamed file, which is gone even if a process is killed."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import reduction
from typing import Any

import torch

__all__ = ["UnnamedFile"]


class UnnamedFile:
    """An object pickled into an unnamed file; passed to a process as an argument, it takes the open file along.

    Args:
        content: Object that pickles.

    Raises:
        OSError: The temporary folder cannot be written, or the disk is full.
        Exception: The object's own pickling raised it.
    """

    def __init__(self, content: Any) -> None:
        self._file: Any = tempfile.TemporaryFile()  # noqa: SIM115  # open until it is received
        try:
            torch.save(content, self._file)
            self._file.flush()
        except Exception as error:
            self.close()
            failure = _write_error(error)
            if failure is None:
                raise
            raise OSError(
                f"cannot write a copy of the network, its batch and its optimizer into the temporary folder "
                f"{tempfile.gettempdir()} ({failure.strerror}); make room there, or set TMPDIR to another folder"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Duplicate the open file into the process that is being started."""
        return {"descriptor": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the duplicate in the new process."""
        self._file = os.fdopen(state["descriptor"].detach(), "rb")

    def unpack(self) -> Any:
        """Load the object, once."""
        with self._file as file:
            file.seek(0)
            return torch.load(file, weights_only=False)  # a file of this package, written a moment ago

    def close(self) -> None:
        """Close this process's file."""
        self._file.close()


def _write_error(error: BaseException | None) -> OSError | None:
    """Return the system's error behind torch's: of a full disk, torch's message is "unexpected pos 576 vs 534"."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
