"""Prediction of a step's peak memory from a dry run, for a device that need not be present."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch

from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum.editions import Edition, EditionLike, Tasks, Trunk, require_edition, require_parts
from mtl_accum.memory import Build, CachingAllocator, Event, PeakMemory, write_snapshot
from mtl_accum.prediction._dry_run import DryRun

__all__ = ["cpu_or_cuda", "predict", "predicted", "workspaces"]

_MATMULS = {"addmm", "mm", "bmm", "baddbmm", "addbmm", "mv", "addmv"}
_ATTENTION = {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"}
_CONVOLUTIONS = {"convolution", "convolution_backward"}
# cuBLAS has a workspace per thread, for the caller's and for autograd's; it is 32 MiB since Hopper.
_WORKSPACE_BEFORE_HOPPER, _WORKSPACE, _HOPPER = 8_519_680, 32 << 20, (9, 0)


def predict(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: Optimizers = None,
    edition: EditionLike,
    device: str | torch.device = "cuda",
    build: Build | None = None,
    snapshot: Path | str | None = None,
) -> PeakMemory:
    """Predict the peak memory of a training step, without the device and without allocating its tensors.

    The step (edition, optimizer, zero_grad) runs on fake tensors, which have shapes and no data, under the meter of
    live tensors. It is the second step, since the first one creates the optimizer's state. For "cpu" the figures are
    the meter's own. For "cuda" the step runs CUDA's operators (dropout masks, attention kernels, autocast lists,
    foreach optimizers), storages are rounded as by CUDA's allocator, cuBLAS's workspaces are added, and the allocator's
    pool is simulated. Uncertainties are caveats of the record.

    Nothing real changes: neither parameters, gradients, buffers and optimizer nor the random state. While a
    prediction for "cuda" runs, other threads' dropout, attention and autocast on the CPU are CUDA's too. Code that
    branches on `x.is_cuda` takes the branch for the CPU.

    Args:
        trunk: Function that maps the batch to the representation; on any device, "meta" too.
        tasks: Functions by name that map the representation and the batch to a 0-dim loss.
        batch: Batch of the size to predict for; on any device, "meta" too.
        optimizer: Optimizer, or list of several, whose steps are part of the predicted step; None leaves them out.
        edition: Edition that computes the gradient.
        device: "cuda" or "cpu".
        build: Function that returns (trunk, tasks, batch, optimizer) in place of the arguments. It is called where
            tensors have no data: for closures, and for networks that do not fit into memory here.
        snapshot: File for PyTorch's memory viewer (https://pytorch.org/memory_viz).

    Returns:
        The record, with source "predicted".

    Raises:
        ValueError: `device` is neither; an optimizer needs a closure (LBFGS); `snapshot` is in no folder; or the
            edition refuses the network.
        TypeError: A callable keeps its modules in a closure, or a module is lazy; the message names the fix.
        PredictionError: Shapes depend on values, or the step does not run on tensors without data.
    """
    cuda = cpu_or_cuda(device).type == "cuda"
    edition = require_edition(edition)
    if build is None:
        require_parts(trunk, tasks)
    if snapshot is not None and not Path(snapshot).parent.is_dir():
        raise ValueError(f"snapshot must be a file in a folder that exists, found {str(snapshot)!r}")
    with DryRun(build or (trunk, tasks, batch, steppable(optimizer)), cuda=cuda) as dry_run:
        record, events = predicted(dry_run, edition, cuda=cuda, trace=snapshot is not None)
    if snapshot is not None:
        write_snapshot(events, Path(snapshot))
    return dataclasses.replace(record, device=str(device))


def cpu_or_cuda(device: str | torch.device) -> torch.device:
    """Return the device of a name, present or not.

    Raises:
        ValueError: The name is neither "cpu" nor "cuda", with or without a number.
    """
    if re.fullmatch(r"cpu|cuda(:\d+)?", str(device)) is None:
        raise ValueError(f"device must be cpu or cuda, found {device!r}")
    return torch.device(device)


def predicted(dry_run: DryRun, edition: Edition, *, cuda: bool, trace: bool = False) -> tuple[PeakMemory, list[Event]]:
    """Predict one step inside the block of a dry run.

    Args:
        dry_run: Dry run of the network.
        edition: Edition that computes the gradient.
        cuda: Whether the dry run is for a GPU.
        trace: Whether to return the events on a CPU too.

    Returns:
        The record and the events of live tensors; for a CPU without `trace` there are none.
    """
    meter = dry_run.step(edition, trace=cuda or trace)
    device = "cuda" if cuda else "cpu"
    record = dataclasses.replace(meter.result(), source="predicted", device=device, edition=repr(edition))
    events, caveats = meter.events, dry_run.caveats()
    if cuda:
        library = workspaces(dry_run.operators)
        events = [*library, *events]
        record = _in_allocator(record, sum(event.size for event in library), events)
        caveats += _cuda_caveats(dry_run.operators)
    return dataclasses.replace(record, caveats=tuple(caveats)), events


def workspaces(operators: set[str]) -> list[Event]:
    """Return the workspaces that cuBLAS allocates at its first use, and keeps.

    Args:
        operators: Names of the operators that ran.
    """
    if not operators & _MATMULS:
        return []
    before_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() < _HOPPER
    size = _WORKSPACE_BEFORE_HOPPER if before_hopper else _WORKSPACE
    return [Event(-thread, size, "cuBLAS workspace", "") for thread in (1, 2)]


def _in_allocator(record: PeakMemory, size: int, events: list[Event]) -> PeakMemory:
    """Return a record of live tensors as CUDA's allocator counts them.

    Args:
        record: Record of the live tensors.
        size: Bytes of the workspaces.
        events: Events of workspaces and live tensors.
    """
    assert record.peak_bytes is not None and record.base_bytes is not None  # noqa: PT018  # for the type checker
    assert record.end_bytes is not None and record.categories is not None  # noqa: PT018
    allocator = CachingAllocator()
    allocator.replay(events)
    rounding = allocator.highest - record.peak_bytes - size  # of blocks that were not worth splitting
    return dataclasses.replace(
        record,
        peak_bytes=allocator.highest,
        base_bytes=record.base_bytes + size,
        end_bytes=record.end_bytes + size,
        categories=dataclasses.replace(record.categories, workspaces=size, rounding=rounding),
        timeline=tuple(
            dataclasses.replace(
                phase,
                start_bytes=phase.start_bytes + size,
                peak_bytes=phase.peak_bytes + size,
                end_bytes=phase.end_bytes + size,
            )
            for phase in record.timeline
        ),
        curve=tuple((operators, live + size) for operators, live in record.curve),
        reserved_bytes=allocator.reserved,
    )


def _cuda_caveats(operators: set[str]) -> list[str]:
    """Return the caveats of a prediction for CUDA, by the operators that ran."""
    caveats = [
        "predicted, not measured: to what the pool reserves a process adds its CUDA context and kernels, a few "
        "hundred MiB that differ between drivers; the pool is that of the default settings (no expandable segments)",
        "allocations inside a kernel are not included (the element-wise map of mse_loss, for a moment)",
    ]
    if operators & _CONVOLUTIONS:
        caveats.append(
            "workspaces of cuDNN's convolutions are not included: they depend on the kernel that it picks on the "
            "device, and can reach gigabytes under cudnn.benchmark"
        )
    if operators & _MATMULS:
        caveats.append(
            "two cuBLAS workspaces are included, of 32 MiB each as from Hopper on (8.1 MiB each on older devices, "
            "taken where one is present; CUBLAS_WORKSPACE_CONFIG changes them)"
        )
    if operators & _ATTENTION:
        caveats.append(
            "attention: the flash or memory-efficient kernel is taken where shapes and types allow it on a recent "
            "device; one that takes another kernel may hold a score for every pair of positions"
        )
    return caveats
