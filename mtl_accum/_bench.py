"""What a fresh process measures about one edition."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mtl_accum._difference import largest_difference
from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk
from mtl_accum.editions._buffers import BufferLog
from mtl_accum.editions._modules import modules_of
from mtl_accum.memory import CudaMeter, PeakMemory, ProcessMeter, TensorMeter, keep_freed_memory

__all__ = ["Bench", "Build", "Parts"]

Parts = tuple[Trunk, Tasks, Any, "torch.optim.Optimizer | None"]
Build = Callable[[], Parts]


class Bench:
    """One edition on one network and one batch: a step, timed or weighed, and its gradient.

    Args:
        parts: (trunk, tasks, batch, optimizer or None), or an importable function that returns them.
        edition: what to measure.
    """

    def __init__(self, parts: Parts | Build, edition: Edition) -> None:
        self._parts, self._edition = parts, edition

    def to_be_timed(self) -> None:
        """Make this process one that is timed; the first thing to call then."""
        keep_freed_memory()

    def to_be_weighed(self) -> None:
        """Make this process one that is weighed; the first thing to call then."""
        ProcessMeter.tune()

    def prepare(self) -> None:
        """Two warm-up steps: optimizer state, workspaces and lazily loaded kernels exist after them."""
        parts = self._parts() if callable(self._parts) else self._parts
        self._trunk, self._tasks, self._batch, self._optimizer = parts
        functions: tuple[Callable[..., Any], ...] = (self._trunk, *self._tasks.values())
        found = {id(module): module for function in functions for module in modules_of(function)}
        self._modules = list(found.values())
        self._parameters = {
            f"{number}.{name}": parameter
            for number, module in enumerate(self._modules)
            for name, parameter in module.named_parameters(recurse=False)
        }
        if self._optimizer is not None:  # parameters that no module owns
            owned = {id(parameter) for parameter in self._parameters.values()}
            loose = (p for group in self._optimizer.param_groups for p in group["params"] if id(p) not in owned)
            self._parameters |= {f"optimizer.{number}": parameter for number, parameter in enumerate(loose)}
        self._buffers = [buffer for module in self._modules for buffer in module.buffers(recurse=False)]
        tensors = [
            *self._parameters.values(),
            *(t for t in tree_leaves(self._batch) if isinstance(t, Tensor)),
        ]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        for _ in range(2):
            self._step()

    def timed_step(self) -> float:
        """Seconds of one step: zero_grad, forward and backward, optimizer; after one that warms the caches."""
        self._step()
        self._wait()
        start = time.perf_counter()
        self._step()
        self._wait()
        return time.perf_counter() - start

    def memory(self) -> list[PeakMemory]:
        """The peaks of one step by every meter that this device has, each over a step of its own."""
        if self._device.type == "cuda":
            with CudaMeter(self._device) as cuda:
                self._step()
            return [cuda.result()]
        peaks = [self._tensors()]
        if ProcessMeter.unavailable() is None:
            with ProcessMeter() as process:
                self._step()
            peaks.append(process.result())
        return peaks

    def difference(self) -> float:
        """How far this edition's gradient is from SummedLoss's, from the same buffers and random numbers."""
        reference = self._gradient(SummedLoss())
        if not any(gradient is not None for gradient in reference.values()):
            raise RuntimeError("found no parameter with a gradient; pass modules, or the optimizer of its parameters")
        difference, parameter = largest_difference(self._gradient(self._edition), reference)
        if math.isinf(difference):
            raise RuntimeError(f"the gradient of {parameter} is missing or not finite")
        return difference

    def _step(self) -> None:
        self._zero_grad()
        self._edition.forward_backward(self._trunk, self._tasks, self._batch)
        if self._optimizer is not None:
            self._optimizer.step()
        self._zero_grad()

    def _tensors(self) -> PeakMemory:
        state = self._optimizer.state if self._optimizer is not None else {}
        resting = (list(self._parameters.values()), self._buffers, list(state.values()), self._batch)
        meter = TensorMeter(self._device, *resting)
        with meter:
            self._step()
        return meter.result()

    def _gradient(self, edition: Edition) -> dict[str, Tensor | None]:
        self._zero_grad()
        torch.manual_seed(0)
        buffers = BufferLog()
        buffers.before(self._modules)
        edition.forward_backward(self._trunk, self._tasks, self._batch)
        buffers.restore()
        gradient = {name: parameter.grad for name, parameter in self._parameters.items()}
        self._zero_grad()
        return gradient

    def _zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
