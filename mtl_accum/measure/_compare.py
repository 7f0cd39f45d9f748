"""Comparison of editions on one network, one batch and one device: memory, time, gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum._torch_pytree import tree_leaves
from mtl_accum._validate import positive_int
from mtl_accum.editions import EditionLike, PerTask, Split, SummedLoss, Tasks, Trunk, require_editions, require_parts
from mtl_accum.measure._fresh_process import FreshProcess, MeasurementError
from mtl_accum.measure._worker import GradientDifference, MeasurementWorker
from mtl_accum.memory import Build, Parts, PeakMemory, device_in_use
from mtl_accum.report import file_name

__all__ = ["Measurement", "compare"]


@dataclass
class Measurement:
    """Measurements of one edition; None or empty where the edition failed, see `failure`.

    Attributes:
        edition: Name of the edition in the comparison.
        meaning: Description of the edition, in one sentence.
        memory: Peak memory, one record a meter.
        step_seconds: Seconds of every timed step.
        gradient_difference: Difference from SummedLoss's gradient, see `gradient_difference`, over all leaves that the
            losses reach, the optimizer's parameters among them. In pieces, the difference without dropout if that is
            larger.
        gradient_rounding: Whether a difference above 1e-5 (1e-12 in float64) is no error: the network's own rounding,
            measured with SummedLoss against itself, is as large.
        absent: Names of the tasks without a target in this batch, or with a count of 0.
        failure: Reason why the other figures are missing; None without a failure.
    """

    edition: str
    meaning: str = ""
    memory: list[PeakMemory] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    gradient_difference: float | None = None
    gradient_rounding: bool = False
    absent: tuple[str, ...] = ()
    failure: str | None = None


def compare(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: Optimizers = None,
    editions: Mapping[str, EditionLike] | None = None,
    steps: int = 5,
    build: Build | None = None,
    snapshots: Path | str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Measure editions, each in a fresh process: peak memory, time per step, difference of the gradient.

    A process measures either time or memory. On the CPU the timed processes take turns with their steps, so a noisy
    machine is equally noisy for all of them. On a GPU they run one after the other, so none takes memory that another
    one needs. The caller's parameters, gradients, buffers and random state stay unchanged.

    Args:
        trunk: Function from the batch to the representation.
        tasks: Functions from the representation and the batch to a 0-dim loss, by name.
        batch: Any batch, on the device of the trunk.
        optimizer: Optimizer, or a list of several, whose steps are part of the measured step; None for no optimizer.
        editions: Editions by the name to show; by default summed, per_task and split.
        steps: Number of timed steps of each edition.
        build: Importable function that returns (trunk, tasks, batch, optimizer). It is called in each fresh process,
            and nothing is sent there: for closures.
        snapshots: Existing folder for one file an edition, its name and ".pickle", for PyTorch's memory viewer
            (https://pytorch.org/memory_viz); None writes no files.
        on_progress: Function that is called with a few words before each measurement.

    Returns:
        One measurement an edition, in order.

    Raises:
        TypeError: An argument cannot be sent to a fresh process, with the fix in the message; or editions is no
            mapping.
        ValueError: steps is less than 1, snapshots is no folder, or an optimizer needs a closure (LBFGS).
    """
    positive_int("steps", steps)
    if build is None:
        require_parts(trunk, tasks)
    chosen = require_editions(editions or {"summed": SummedLoss(), "per_task": PerTask(), "split": Split()})
    folder = None if snapshots is None else Path(snapshots)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"snapshots must be a folder that exists, found {str(snapshots)!r}")
    parts: Parts | Build = build or (trunk, tasks, batch, steppable(optimizer))
    rows = {name: Measurement(name, edition.summary) for name, edition in chosen.items()}
    files: dict[str, str] = {}  # of the snapshots
    for name in chosen:
        files[name] = file_name(name, files.values())
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the processes need the memory
    device = _device(trunk, tasks, batch)
    if build is not None and torch.cuda.is_available():  # the device of its network is known only in the process
        device = torch.device("cuda", torch.cuda.current_device())
    one_by_one = device.type != "cpu"
    for group in [[name] for name in chosen] if one_by_one else [list(chosen)]:
        members = {name: chosen[name] for name in group}
        on_progress(f"timing {', '.join(group)}")
        with _processes({name: MeasurementWorker(parts, edition) for name, edition in members.items()}, rows) as call:
            for method in ("tune_for_timing", "prepare", *["timed_step"] * steps):
                for name in group:
                    seconds = call(name, method)
                    if seconds is not None:
                        rows[name].step_seconds.append(seconds)
        before = device_in_use(device)
        workers = {
            name: MeasurementWorker(parts, edition, before=before, snapshot=folder and folder / f"{files[name]}.pickle")
            for name, edition in members.items()
        }
        with _processes(workers, rows) as call:
            for name in group:
                on_progress(f"measuring the memory of {name}")
                call(name, "tune_for_memory")
                call(name, "prepare")
                rows[name].memory = call(name, "memory") or []
                _set_difference(rows[name], call(name, "difference"))
    return list(rows.values())


@contextmanager
def _processes(
    workers: Mapping[str, MeasurementWorker], rows: Mapping[str, Measurement]
) -> Iterator[Callable[[str, str], Any]]:
    """Start a fresh process for each edition, and yield a function that calls a method there.

    From an edition's first failure on, the function returns None, and the edition's row has the failure.
    """
    with ExitStack() as stack:
        processes = {name: stack.enter_context(FreshProcess(worker)) for name, worker in workers.items()}

        def call(name: str, method: str) -> Any:
            if rows[name].failure is not None:
                return None
            try:
                return processes[name].call(method)
            except MeasurementError as error:
                rows[name].failure = str(error)
                return None

        yield call


def _set_difference(row: Measurement, difference: GradientDifference | None) -> None:
    if difference is not None:
        row.gradient_difference, row.gradient_rounding = difference.value, difference.is_rounding
        row.absent = difference.absent


def _device(*trees: Any) -> torch.device:
    """Return the device of the first tensor or parameter."""
    for leaf in tree_leaves(trees):
        if isinstance(leaf, torch.Tensor):
            return leaf.device
        if isinstance(leaf, torch.nn.Module):
            for parameter in leaf.parameters():
                return parameter.device
    return torch.device("cpu")
