"""The peak of a step on a device that need not be there, from a run of the step on tensors without data."""

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
# cuBLAS gets one workspace a thread (the caller's, and autograd's for the device): 32 MiB since Hopper.
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

    The step (edition, optimizer, zero_grad; the second one, so that the optimizer's state exists) runs on fake
    tensors, which know shapes and no data, under the meter of live tensors. For "cpu" the figures are the
    meter's own. For "cuda" the step takes CUDA's operators (dropout masks, attention kernels, autocast lists,
    foreach optimizers), storages are rounded as CUDA's allocator does, cuBLAS's workspaces are added, and the
    allocator's pool is simulated. What cannot be known is a caveat of the record.

    Nothing real changes: neither parameters, gradients, buffers and optimizer nor the random state. While a
    prediction for "cuda" runs, other threads' dropout, attention and autocast on the CPU are CUDA's too. Code that
    asks `x.is_cuda` takes its branch for the CPU.

    Args:
        trunk: maps the batch to the representation; on any device, "meta" too.
        tasks: by name, maps the representation and the batch to a 0-dim loss.
        batch: of the size to predict for; on any device, "meta" too.
        optimizer: one or a list of several, whose steps are part of the predicted step; None leaves them out.
        edition: computes the gradient.
        device: "cuda" or "cpu".
        build: returns (trunk, tasks, batch, optimizer) in place of those given, and is called where tensors have
            no data: for closures, and for networks that do not fit into memory here.
        snapshot: a file for PyTorch's memory viewer (https://pytorch.org/memory_viz).

    Returns:
        The record, with source "predicted".

    Raises:
        ValueError: device is neither; an optimizer needs a closure (LBFGS); or what the edition refuses.
        TypeError: a callable keeps its modules in a closure, or a module is lazy; the message names the fix.
        PredictionError: shapes depend on values, or the step does not run on tensors without data.
    """
    cuda = cpu_or_cuda(device).type == "cuda"
    edition = require_edition(edition)
    if build is None:
        require_parts(trunk, tasks)
    if snapshot is not None and not Path(snapshot).parent.is_dir():
        raise ValueError(f"snapshot must be a file in a folder that exists, found {str(snapshot)!r}")
    with DryRun(build or (trunk, tasks, batch, steppable(optimizer)), cuda=cuda) as rehearsal:
        found, events = predicted(rehearsal, edition, cuda=cuda, trace=snapshot is not None)
    if snapshot is not None:
        write_snapshot(events, Path(snapshot))
    return dataclasses.replace(found, device=str(device))


def cpu_or_cuda(device: str | torch.device) -> torch.device:
    """The device of that name, be it here or not; ValueError for any other."""
    if re.fullmatch(r"cpu|cuda(:\d+)?", str(device)) is None:
        raise ValueError(f"device must be cpu or cuda, found {device!r}")
    return torch.device(device)


def predicted(
    rehearsal: DryRun, edition: Edition, *, cuda: bool, trace: bool = False
) -> tuple[PeakMemory, list[Event]]:
    """The record of one step inside a rehearsal's block, and the events if they were asked for or needed."""
    meter = rehearsal.step(edition, trace=cuda or trace)
    device = "cuda" if cuda else "cpu"
    found = dataclasses.replace(meter.result(), source="predicted", device=device, edition=repr(edition))
    events, caveats = meter.events, rehearsal.caveats()
    if cuda:
        kept = workspaces(rehearsal.seen)
        events = [*kept, *events]
        found = _allocated(found, sum(event.size for event in kept), events)
        caveats += _cuda_caveats(rehearsal.seen)
    return dataclasses.replace(found, caveats=tuple(caveats)), events


def workspaces(seen: set[str]) -> list[Event]:
    """What cuBLAS takes from the allocator at its first use, and keeps."""
    if not seen & _MATMULS:
        return []
    before_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() < _HOPPER
    size = _WORKSPACE_BEFORE_HOPPER if before_hopper else _WORKSPACE
    return [Event(-thread, size, "cuBLAS workspace", "") for thread in (1, 2)]


def _allocated(found: PeakMemory, size: int, events: list[Event]) -> PeakMemory:
    """Live tensors as CUDA's allocator would count them, with workspaces of so many bytes beside them."""
    assert found.peak_bytes is not None and found.base_bytes is not None  # noqa: PT018  # for the type checker
    assert found.end_bytes is not None and found.categories is not None  # noqa: PT018
    allocator = CachingAllocator()
    allocator.replay(events)
    rounding = allocator.highest - found.peak_bytes - size  # blocks that were not worth splitting
    return dataclasses.replace(
        found,
        peak_bytes=allocator.highest,
        base_bytes=found.base_bytes + size,
        end_bytes=found.end_bytes + size,
        categories=dataclasses.replace(found.categories, workspaces=size, rounding=rounding),
        timeline=tuple(
            dataclasses.replace(
                phase,
                start_bytes=phase.start_bytes + size,
                peak_bytes=phase.peak_bytes + size,
                end_bytes=phase.end_bytes + size,
            )
            for phase in found.timeline
        ),
        curve=tuple((operators, live + size) for operators, live in found.curve),
        reserved_bytes=allocator.reserved,
    )


def _cuda_caveats(seen: set[str]) -> list[str]:
    caveats = [
        "predicted, not measured: to what the pool reserves a process adds its CUDA context and kernels, a few "
        "hundred MiB that differ between drivers; the pool is that of the default settings (no expandable segments)",
        "what a kernel allocates for itself is not included (the element-wise map inside mse_loss, for a moment)",
    ]
    if seen & _CONVOLUTIONS:
        caveats.append(
            "workspaces of cuDNN's convolutions are not included: they depend on the kernel that it picks on the "
            "device, and can reach gigabytes under cudnn.benchmark"
        )
    if seen & _MATMULS:
        caveats.append(
            "two cuBLAS workspaces are included, of 32 MiB each as from Hopper on (8.1 MiB each on older devices, "
            "taken where one is present; CUBLAS_WORKSPACE_CONFIG changes them)"
        )
    if seen & _ATTENTION:
        caveats.append(
            "attention: the flash or memory-efficient kernel is taken where shapes and types allow it on a recent "
            "device; one that takes another kernel may hold a score for every pair of positions"
        )
    return caveats
