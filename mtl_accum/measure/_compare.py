"""Editions side by side on one network, one batch and one device."""

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
from mtl_accum.measure._process import FreshProcess, MeasurementError
from mtl_accum.measure._worker import GradientDifference, MeasurementWorker
from mtl_accum.memory import Build, Parts, PeakMemory, device_in_use
from mtl_accum.report import file_name

__all__ = ["Measurement", "compare"]


@dataclass
class Measurement:
    """What one edition needed; None or empty where it could not be measured, `failure` says why.

    Attributes:
        edition: its name in the comparison.
        meaning: what it does, in one sentence.
        memory: one record a meter.
        step_seconds: every timed step, in seconds.
        gradient_difference: from SummedLoss's gradient, see `gradient_difference`; over all leaves that the losses
            reach, the optimizer's parameters among them. In pieces, without dropout if it is larger then.
        gradient_rounding: whether a difference above 1e-5 (1e-12 in float64) is no error: the network's own rounding,
            measured with SummedLoss against itself, is as large.
        absent: tasks that have nothing to learn from this batch: no target in it, or a count of 0.
        failure: why the rest is missing, in words.
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

    A process is either timed or weighed. On the CPU the timed ones take turns with their steps, so that a
    noisy machine is noisy for all of them; on a GPU they run one after the other, so that none takes memory
    that another one needs. Here nothing changes: neither parameters, gradients and buffers nor the random
    state.

    Args:
        trunk: maps the batch to the representation.
        tasks: by name, maps the representation and the batch to a 0-dim loss.
        batch: on the device of the trunk.
        optimizer: one or a list of several, whose steps are part of the measured step; None leaves them out.
        editions: by the name that the result shows; by default summed, per_task and split.
        steps: timed steps of each edition.
        build: an importable function that returns (trunk, tasks, batch, optimizer), called in each fresh
            process in place of sending these there; for closures.
        snapshots: an existing folder for one file an edition, its name and ".pickle", for PyTorch's memory viewer
            (https://pytorch.org/memory_viz); None writes none.
        on_progress: told in a few words what happens next.

    Returns:
        One measurement an edition, in order.

    Raises:
        TypeError: something cannot be sent to a fresh process; the message names the fix; or editions is no mapping.
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
        torch.cuda.empty_cache()  # the processes need the room
    device = _device(trunk, tasks, batch)
    if build is not None and torch.cuda.is_available():  # where it will put the network is known too late
        device = torch.device("cuda", torch.cuda.current_device())
    one_by_one = device.type != "cpu"
    for group in [[name] for name in chosen] if one_by_one else [list(chosen)]:
        members = {name: chosen[name] for name in group}
        on_progress(f"timing {', '.join(group)}")
        with _processes({name: MeasurementWorker(parts, edition) for name, edition in members.items()}, rows) as ask:
            for method in ("to_be_timed", "prepare", *["timed_step"] * steps):
                for name in group:
                    seconds = ask(name, method)
                    if seconds is not None:
                        rows[name].step_seconds.append(seconds)
        before = device_in_use(device)
        benches = {
            name: MeasurementWorker(parts, edition, before=before, snapshot=folder and folder / f"{files[name]}.pickle")
            for name, edition in members.items()
        }
        with _processes(benches, rows) as ask:
            for name in group:
                on_progress(f"weighing {name}")
                ask(name, "to_be_weighed")
                ask(name, "prepare")
                rows[name].memory = ask(name, "memory") or []
                _note(rows[name], ask(name, "difference"))
    return list(rows.values())


@contextmanager
def _processes(
    benches: Mapping[str, MeasurementWorker], rows: Mapping[str, Measurement]
) -> Iterator[Callable[[str, str], Any]]:
    """A fresh process for each edition, and a way to ask them, which answers None from the first failure on."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(FreshProcess(bench)) for name, bench in benches.items()}

        def ask(name: str, method: str) -> Any:
            if rows[name].failure is not None:
                return None
            try:
                return processes[name].call(method)
            except MeasurementError as error:
                rows[name].failure = str(error)
                return None

        yield ask


def _note(row: Measurement, difference: GradientDifference | None) -> None:
    if difference is not None:
        row.gradient_difference, row.gradient_rounding = difference.value, difference.is_rounding
        row.absent = difference.absent


def _device(*trees: Any) -> torch.device:
    for leaf in tree_leaves(trees):
        if isinstance(leaf, torch.Tensor):
            return leaf.device
        if isinstance(leaf, torch.nn.Module):
            for parameter in leaf.parameters():
                return parameter.device
    return torch.device("cpu")
