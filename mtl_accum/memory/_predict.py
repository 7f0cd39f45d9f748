"""The peak of a step on a device that need not be there, from a run of the step on tensors without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk
from mtl_accum.editions._phase import listening
from mtl_accum.editions._replay import RandomState
from mtl_accum.memory._caching_allocator import BLOCK, CachingAllocator
from mtl_accum.memory._cuda_operators import cuda_operators, prefer_foreach
from mtl_accum.memory._fake import CLOSURES, OnCpu, Unknowns, fake_copy
from mtl_accum.memory._record import PeakMemory
from mtl_accum.memory._snapshot import write_snapshot
from mtl_accum.memory._storages import Event
from mtl_accum.memory._training_step import TrainingStep

__all__ = ["PredictionError", "predict"]

Parts = tuple[Trunk, Tasks, Any, "torch.optim.Optimizer | None"]
Build = Callable[[], Parts]

_MATMULS = {"addmm", "mm", "bmm", "baddbmm", "addbmm", "mv", "addmv"}
_CONVOLUTIONS = {"convolution", "convolution_backward"}
# cuBLAS gets one workspace a thread (the caller's, and autograd's for the device): 32 MiB since Hopper.
_WORKSPACE_BEFORE_HOPPER, _WORKSPACE, _HOPPER = 8_519_680, 32 << 20, (9, 0)


class PredictionError(RuntimeError):
    """The step cannot be predicted; the message says why, and what to do."""


def predict(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    edition: Edition,
    device: str = "cuda",
    build: Build | None = None,
    snapshot: Path | None = None,
) -> PeakMemory:
    """Predict the peak memory of a training step, without the device and without allocating its tensors.

    The step (zero_grad, edition, optimizer; the second one, so that the optimizer's state exists) runs on fake
    tensors, which know shapes and no data, under the meter of live tensors. For "cpu" the figures are the
    meter's own. For "cuda" the step takes CUDA's operators (dropout masks, attention kernels, autocast lists,
    foreach optimizers), storages are rounded as CUDA's allocator does, cuBLAS's workspaces are added, and the
    allocator's pool is simulated. What cannot be known is a caveat of the record.

    Nothing real changes: neither parameters, gradients, buffers and optimizer nor the random state.

    Args:
        trunk: maps the batch to the representation; on any device, "meta" too.
        tasks: by name, maps the representation and the batch to a 0-dim loss.
        batch: of the size to predict for; on any device, "meta" too.
        optimizer: its step is part of the predicted step; None leaves it out.
        edition: computes the gradient.
        device: "cuda" or "cpu".
        build: returns (trunk, tasks, batch, optimizer) in place of those given, and is called where tensors have
            no data: for closures, and for networks that do not fit into memory here.
        snapshot: a file for PyTorch's memory viewer (https://pytorch.org/memory_viz).

    Returns:
        The record, with source "predicted".

    Raises:
        ValueError: device is neither; or what the edition refuses.
        TypeError: a callable keeps its modules in a closure, or a module is lazy; the message names the fix.
        PredictionError: shapes depend on values, or the step does not run on tensors without data.
    """
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, found {device!r}")
    cuda = kind == "cuda"
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    random = RandomState()
    real = _real_parameters(optimizer)
    unknown = Unknowns()
    try:
        if build is None:
            parts: Parts = fake_copy(mode, trunk, tasks, batch, optimizer)
        else:
            with mode, unknown:
                parts = build()
        if cuda and parts[3] is not None:
            prefer_foreach(parts[3])
        with ExitStack() as stack:
            stack.enter_context(mode)
            if cuda:
                stack.enter_context(cuda_operators())
                stack.enter_context(OnCpu())
            stack.enter_context(listening(unknown, alone=True))  # a meter outside must not hear this step
            stack.enter_context(unknown)
            stack.enter_context(_in_words())
            TrainingStep(*parts, SummedLoss())()  # optimizer state is the same whatever computed the gradient
            step = TrainingStep(*parts, edition)
            unknown.forget()
            with step.tensor_meter(round_to=BLOCK if cuda else 1, trace=cuda or snapshot is not None) as meter:
                step()
        _require_untouched(real)
    finally:
        for parameter, gradient in real:
            parameter.grad = gradient
        random.restore()
    found = dataclasses.replace(meter.result(), source="predicted", device=device, edition=repr(edition))
    events, caveats = meter.events, [*unknown.caveats(), *_recurrent(step.modules)]
    if cuda:
        workspaces = _workspaces(unknown.seen)
        events = [*workspaces, *events]
        found = _with_workspaces(found, sum(event.size for event in workspaces), events)
        caveats += _cuda_caveats(unknown.seen, bool(workspaces))
    if snapshot is not None:
        write_snapshot(events, snapshot)
    return dataclasses.replace(found, caveats=tuple(caveats))


@contextmanager
def _in_words() -> Iterator[None]:
    """Say what went wrong on tensors without data; what editions refuse (ValueError) passes as it is."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise PredictionError(f"shapes depend on values ({error}); measure with compare instead") from error
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise PredictionError(f"the step does not run on tensors without data ({reason})") from error


def _workspaces(seen: set[str]) -> list[Event]:
    """What cuBLAS takes from the allocator at its first use, and keeps."""
    if not seen & _MATMULS:
        return []
    before_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() < _HOPPER
    size = _WORKSPACE_BEFORE_HOPPER if before_hopper else _WORKSPACE
    return [Event(-thread, size, "cuBLAS workspace", "") for thread in (1, 2)]


def _with_workspaces(found: PeakMemory, size: int, events: list[Event]) -> PeakMemory:
    assert found.peak_bytes is not None
    assert found.base_bytes is not None
    assert found.end_bytes is not None
    assert found.categories is not None
    allocator = CachingAllocator()
    allocator.replay(events)
    return dataclasses.replace(
        found,
        peak_bytes=found.peak_bytes + size,
        base_bytes=found.base_bytes + size,
        end_bytes=found.end_bytes + size,
        categories=dataclasses.replace(found.categories, workspaces=size),
        timeline=tuple(
            dataclasses.replace(phase, peak_bytes=phase.peak_bytes + size, end_bytes=phase.end_bytes + size)
            for phase in found.timeline
        ),
        reserved_bytes=allocator.reserved,
    )


def _cuda_caveats(seen: set[str], matmuls: bool) -> list[str]:
    caveats = [
        "predicted, not measured: to what the pool reserves a process adds its CUDA context and kernels, a few "
        "hundred MiB that differ between drivers"
    ]
    if seen & _CONVOLUTIONS:
        caveats.append(
            "workspaces of cuDNN's convolutions are not included: they depend on the kernel that it picks on the "
            "device, and can reach gigabytes under cudnn.benchmark"
        )
    if matmuls:
        caveats.append(
            "two cuBLAS workspaces are included, of 32 MiB each as from Hopper on (8.1 MiB each on older devices, "
            "taken where one is present; CUBLAS_WORKSPACE_CONFIG changes them)"
        )
    return caveats


def _recurrent(modules: list[nn.Module]) -> list[str]:
    names = sorted({type(module).__name__ for module in modules if isinstance(module, nn.RNNBase)})
    if not names:
        return []
    return [
        f"too low: {', '.join(names)} keeps a reserve for its backward that tensors without data do not show (for an "
        "LSTM a prediction was 41 to 73 % below the measured peak); measure instead"
    ]


def _real_parameters(optimizer: torch.optim.Optimizer | None) -> list[tuple[Tensor, Tensor | None]]:
    groups = [] if optimizer is None else optimizer.param_groups
    return [(parameter, parameter.grad) for group in groups for parameter in group["params"]]


def _require_untouched(real: list[tuple[Tensor, Tensor | None]]) -> None:
    """A callable that holds a parameter itself, without a module, has run on the real one."""
    if any(parameter.grad is not gradient for parameter, gradient in real):
        raise TypeError(f"a parameter of the optimizer belongs to no module: {CLOSURES}")
