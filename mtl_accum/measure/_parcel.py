"""An object on its way to another process, in a file that has no name: nothing is left of it, whoever is killed."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import reduction
from typing import Any

import torch

__all__ = ["Parcel"]


class Parcel:
    """Pickle an object into an unnamed file; sent to a process as an argument, it takes the open file along.

    Args:
        content: Any object that pickles.

    Raises:
        OSError: The temporary folder is full, or cannot be written.
        Exception: Whatever the object's own pickling raises.
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
                f"a copy of the network, its batch and its optimizer does not get into the temporary folder "
                f"{tempfile.gettempdir()} ({failure.strerror}); make room there, or set TMPDIR to another folder"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Duplicate the open file into the process that is being started."""
        return {"descriptor": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the open file there."""
        self._file = os.fdopen(state["descriptor"].detach(), "rb")

    def unpack(self) -> Any:
        """Load the object, once."""
        with self._file as file:
            file.seek(0)
            return torch.load(file, weights_only=False)  # our own file, written a moment ago

    def close(self) -> None:
        """Close this process's file."""
        self._file.close()


def _write_error(error: BaseException | None) -> OSError | None:
    """Find the system's error behind torch's, which has "unexpected pos 576 vs 534" to say of a full disk."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
