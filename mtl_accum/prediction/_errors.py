"""Errors of a step on tensors without data: which of them need data, and a message with part, line and fix."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from mtl_accum.prediction._code_location import code_location
from mtl_accum.prediction._data_dependence import DataDependenceTracker, ForeignParameterError

__all__ = ["PredictionError", "translated_errors"]

_SHAPES = (DataDependentOutputException, DynamicOutputShapeException)
# Parts of torch's messages where it raises a plain RuntimeError or TypeError for a tensor without data. The tests
# raise what a forward can.
_NEEDS_DATA = (
    "FakeTensor",  # from the fake mode itself, and from `DataDependenceTracker`
    "tensor subclass",  # .numpy() and .tolist()
    "eta tensor",  # a copy out of the meta device: "Meta tensor", "meta tensor"
    "support for cuda devices",  # a device index in a build without CUDA
    "not compiled with CUDA",  # code that initialises CUDA in a build without it
)


class PredictionError(RuntimeError):
    """The step cannot be predicted; the message says why, and what to do."""


@contextmanager
def translated_errors(tracker: DataDependenceTracker) -> Iterator[None]:
    """Turn errors of the block that are due to missing data into `PredictionError`; other errors pass unchanged.

    Args:
        tracker: Tracker of the step, which has the part of the network that ran.

    Raises:
        PredictionError: The step needs data.
        TypeError: A real parameter takes part in the step.
    """
    try:
        yield
    except ForeignParameterError as error:
        raise TypeError(str(error)) from None
    except _SHAPES as error:
        raise PredictionError(_message("shapes depend on values", error, tracker)) from None
    except (RuntimeError, TypeError, ArithmeticError, IndexError) as error:
        if not _needs_data(error, tracker):
            raise
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        text = f"the step does not run on tensors without data ({reason})"
        raise PredictionError(_message(text, error, tracker)) from None


def _needs_data(error: Exception, tracker: DataDependenceTracker) -> bool:
    """Return whether an error is due to missing data.

    This is the case if torch's error states it. It is also the case if the network read values before: an operator then
    gets sizes that were made up (`x.split(n.tolist())`), unless an edition refused the network or the error is a type
    error.
    """
    if isinstance(error, ArithmeticError | UnsupportedFakeTensorException | UnsupportedOperatorException):
        return True
    text = str(error).replace("'FakeTensor'", "") if isinstance(error, TypeError) else str(error)  # only a type's name
    if any(part in text for part in _NEEDS_DATA):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    refused = modules[-1].startswith("mtl_accum.editions")
    return bool(tracker.values) and not isinstance(error, TypeError) and not refused


def _message(text: str, error: Exception, tracker: DataDependenceTracker) -> str:
    """Return a message with the part of the network, the line of its code, and the fix."""
    location = code_location(error)
    return (
        f"{tracker.place or 'the network'}: {text}{f' at {location}' if location else ''}; put network and batch on "
        "the device for plan to measure there, measure with compare instead, or multiply by a mask in place of "
        "selecting"
    )
