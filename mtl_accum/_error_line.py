"""One-line messages for errors of the command line: the key or part of the experiment, and the cause."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

__all__ = ["is_interrupt", "one_line", "without_place"]

_PACKAGE = Path(__file__).resolve().parent
_LOCATING = "Error locating target"
_HINT = "HYDRA_FULL_ERROR=1 shows the traceback"
_DELIBERATE = (ValueError, TypeError, FloatingPointError, MemoryError)
# An error that is raised in one of these modules is about the value of the knob.
_PARTS = {
    "torch.optim.lr_scheduler": "scheduler",
    "torch.optim": "optimizer",
    "torchmetrics": "measures",
    "mtl_accum.data": "data",
    "torch.utils.data": "data",
    "torch.nn.modules": "model",
    "mtl_accum.models": "model",
}


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error was raised while Ctrl-C was on its way out, as by a library's `finally` that fails."""
    while error.__context__ is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return isinstance(error, KeyboardInterrupt)


def one_line(error: BaseException, knobs: Mapping[str, str] | None = None) -> str | None:
    """Word an error for the user.

    Args:
        error: Error raised while a command line was composed, instantiated or run.
        knobs: Knob of each argument of the job; the message names a knob, which the user can set.

    Returns:
        One line; None where the error is not about the user's input: that is a bug, and needs its traceback.
    """
    cause, key = _cause(error)
    if isinstance(error, InstantiationException):
        knob = _knob_of(key, knobs or {})
        # An object that the job itself is made of names its arguments; where it stands in the job would not help.
        in_job = knob is None and _is_deliberate_in_package(cause)
        return _prefixed("" if in_job else knob or key, _of_built(cause))
    if isinstance(cause, HydraException | OmegaConfBaseException):
        return _of_composed(cause)
    if isinstance(cause, OSError):
        return _joined(cause)
    if _is_deliberate_in_package(cause):
        return _joined(cause)
    frames = list(_frames(cause))
    if isinstance(cause, _DELIBERATE) and _is_in(frames[-1], "hydra"):
        return _of_composed(cause)
    part = _part(frames)
    return None if part is None else _prefixed(part, f"{_typed(cause)}; {_HINT}")


def without_place(error: BaseException) -> str:
    """Word an error that is a bug, for a table without room for its traceback."""
    return f"{type(error).__name__}: {_joined(error)}"


def _cause(error: BaseException) -> tuple[BaseException, str]:
    """Return the cause behind Hydra's instantiation errors, and the key of the object that could not be built."""
    key = ""
    while isinstance(error, InstantiationException):
        place = re.search(r"^full_key: (?:job\.)?(.+)$", str(error), re.MULTILINE)
        key = place[1] if place else key
        if error.__cause__ is None or str(error).startswith(_LOCATING):
            break
        error = error.__cause__
    return error, key


def _knob_of(key: str, knobs: Mapping[str, str]) -> str | None:
    """Return the knob behind a dotted key of the job; None for a key that is no knob's, nor below one."""
    names = key.split(".")
    for end in range(len(names), 0, -1):
        knob = knobs.get(".".join(names[:end]))
        if knob is not None:
            return ".".join([knob, *names[end:]])
    return None


def _is_deliberate_in_package(error: BaseException) -> bool:
    """Return whether the package raised an error about a value, as opposed to a library or a bug."""
    frames = list(_frames(error))
    return isinstance(error, _DELIBERATE) and bool(frames) and _is_in(frames[-1], "mtl_accum")


def _of_built(cause: BaseException) -> str:
    if isinstance(cause, InstantiationException):
        return _of_target(cause)
    return _joined(cause) if isinstance(cause, _DELIBERATE) else _with_place(cause)


def _of_composed(cause: BaseException) -> str:
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        return _of_choice(cause)
    if isinstance(cause, OmegaConfBaseException):
        return _prefixed(cause.full_key or "", str(cause.msg or cause).partition("\n")[0])
    return _joined(cause)


def _of_target(error: InstantiationException) -> str:
    """Name a target that cannot be imported, and the innermost error, which is the reason."""
    lines = [line for line in str(error).splitlines() if not line.startswith("full_key: ")]
    head = " ".join(lines).partition(", set env var")[0]
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return head if inner is error else f"{head}: {_with_place(inner)}"


def _of_choice(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = f"expected one of {', '.join(sorted(error.options))}; " if error.options else ""
    return f"{group or 'config'}={name}: {options}found no {group} of that name"


def _with_place(error: BaseException) -> str:
    """Word an error with its type and the line of the user's own file, or of a library, that raised it."""
    frame = next((frame for frame in reversed(list(_frames(error))) if not _is_machinery(frame)), None)
    place = "" if frame is None else f" ({Path(frame.f_code.co_filename).name}, line {_line(error, frame)})"
    return f"{_typed(error)}{place}; {_HINT}"


def _part(frames: list[FrameType]) -> str | None:
    """Name the part of the experiment whose code raised, unless the innermost code is the user's own."""
    for frame in reversed(frames):
        name = str(frame.f_globals.get("__name__", ""))
        for prefix, part in _PARTS.items():
            if f"{name}.".startswith(f"{prefix}."):
                return f"{part}{_modules(frames)}"
        if name.partition(".")[0] not in ("torch", "mtl_accum", "sklearn", "numpy", "hydra"):
            return None
    return None


def _modules(frames: list[FrameType]) -> str:
    """Name the modules of the network that were running, outermost first."""
    calls = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "_call_impl"]
    names = [type(module).__name__ for module in calls if module is not None]
    return f" ({' > '.join(name for name in names if not name.startswith('_'))})" if names else ""


def _typed(error: BaseException) -> str:
    return _joined(error) if isinstance(error, _DELIBERATE) else f"{type(error).__name__}: {_joined(error)}"


def _frames(error: BaseException) -> Iterator[FrameType]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame


def _line(error: BaseException, frame: FrameType) -> int:
    return next(line for walked, line in traceback.walk_tb(error.__traceback__) if walked is frame)


def _is_machinery(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith("<frozen") or _is_in(frame, "hydra") or _is_in(frame, "importlib")


def _is_in(frame: FrameType, package: str) -> bool:
    if package == "mtl_accum":
        return Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == package


def _prefixed(place: str, line: str) -> str:
    return f"{place}: {line}" if place and not line.startswith(place) else line


def _joined(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
